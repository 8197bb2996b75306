"""The verdict that intervals give, and the one that a person wrote down."""

import json
import math

import pytest

from lmsleep.figures.results import HELPS_AT_STEPS, OPPOSITE, SAME, SLEEP_HARMS, SLEEP_HELPS, direction, load
from lmsleep.figures.stats import UNDECIDED, Estimate


@pytest.mark.parametrize(
    ("low", "high", "expected", "word"),
    [
        (0.01, 0.2, 1, SAME),
        (-0.2, -0.01, 1, OPPOSITE),
        (-0.01, 0.2, 1, UNDECIDED),
        (0.0, 0.2, 1, UNDECIDED),
        (-0.2, 0.0, 1, UNDECIDED),
        (0.0, 0.0, 1, UNDECIDED),
        (0.01, 0.2, -1, OPPOSITE),
        (-0.2, -0.01, -1, SAME),
        (-0.1, 0.1, -1, UNDECIDED),
        (None, None, 1, UNDECIDED),
        (math.nan, math.nan, 1, UNDECIDED),
    ],
)
def test_a_direction_is_decided_by_an_interval_on_one_side_of_zero(low, high, expected, word):
    difference = Estimate.of({"value": 0.0, "low": low, "high": high, "n": 3})
    assert direction(difference, expected) == word


def verdicts(folder, scale="mini"):
    return {name: result.verdict for name, result in load(folder, scale).items()}


def test_the_largest_n_decides(results):
    verdict = verdicts(results)["fig2b"]
    assert verdict.word == SAME  # N = 2 alone would be the opposite
    assert verdict.sentence == "N = 4 against N = 1: +40.0 (+31.0 to +49.0) points of accuracy, paired over 3 seeds."


def test_one_seed_leaves_it_undecided(results):
    verdict = verdicts(results)["fig4a"]
    assert verdict.word == UNDECIDED
    assert "one seed" in verdict.sentence


def test_two_seeds_leave_it_undecided_too(results):
    apart = {"n_passes": 4, "base": 1, "value": 0.4, "low": None, "high": None, "n": 2}
    (results / "fig2b.json").write_text(json.dumps({"test_exact": [], "overall": [apart]}))
    verdict = verdicts(results)["fig2b"]
    assert verdict.word == UNDECIDED
    assert "+40.0 points of accuracy, from 2 seeds, which give no interval" in verdict.sentence


def test_the_largest_t_decides_figure_2a_and_fewer_right_is_the_papers_direction(results):
    steps = [
        {"slice": t, "base": 2, "value": v, "low": v - 0.1, "high": v + 0.1, "n": 3} for t, v in ((10, -0.5), (4, 0.2))
    ]
    (results / "fig2a.json").write_text(json.dumps({"test_exact": [], "difference": steps}))
    verdict = verdicts(results)["fig2a"]
    assert verdict.word == SAME
    assert verdict.sentence.startswith("t = 10 against t = 2: -50.0")


@pytest.mark.parametrize(
    ("steps", "operations", "word"),
    [
        ((-0.02, -0.01), (-0.02, -0.01), SLEEP_HELPS),
        ((-0.02, -0.01), (-0.02, 0.01), HELPS_AT_STEPS),
        ((-0.02, -0.01), (0.01, 0.02), HELPS_AT_STEPS),
        ((-0.02, 0.01), (-0.02, -0.01), UNDECIDED),
        ((0.01, 0.02), (-0.02, -0.01), SLEEP_HARMS),
        ((None, None), (None, None), UNDECIDED),
    ],
)
def test_natural_text_is_decided_by_less_loss_after_equal_steps_and_operations(results, steps, operations, word):
    """Of the largest N: N = 2 would be the opposite, and N = 1 with more steps is none."""
    n = 1 if steps[0] is None else 3
    records = [
        {
            "metric": "test_loss",
            "n_passes": passes,
            "against": against,
            "value": sign * 0.5,
            "low": low,
            "high": high,
            "n": n,
        }
        for passes, sign, ends in ((1, 1, None), (2, 1, None), (4, -1, (steps, operations)))
        for against, (low, high) in zip(
            ("equal steps", "up to equal operations"), ends or ((0.1, 0.9),) * 2, strict=True
        )
    ]
    (results / "text.json").write_text(json.dumps({"text": records}))
    verdict = verdicts(results, "gpu")["text"]
    assert verdict.word == word and verdict.tone in ("good", "bad", "")
    ends = "" if n == 1 else " ({:+.4f} to {:+.4f})"
    assert verdict.sentence.startswith(
        f"N = 4 against N = 1, nats a byte of unseen files: -0.5000{ends.format(*steps)} after equal steps, "
        f"-0.5000{ends.format(*operations)} after up to equal operations"
    )
    assert "text" not in verdicts(results, "mini")


def test_controls_have_no_verdict(results):
    assert verdicts(results)["controls"] is None


def test_a_written_verdict_counts_at_paper_scale_alone(results, write_report):
    (results / "verdicts.yaml").write_text("fig2b: {verdict: not reached, sentence: Stopped at 0.1 B tokens.}\n")
    assert verdicts(results)["fig2b"].word == SAME
    verdict = verdicts(results, "paper")["fig2b"]
    assert (verdict.word, verdict.sentence) == ("not reached", "Stopped at 0.1 B tokens.")
    assert "Stopped at 0.1 B tokens." in write_report("paper")


def test_a_figure_without_a_run_at_paper_scale_is_said_to_have_none(results, write_report):
    (results / "verdicts.yaml").write_text("fig2b: {verdict: not run, sentence: The weights were never loaded.}\n")
    assert verdicts(results, "paper")["fig2b"].tone == ""
    assert "<strong class='badge '>not run</strong> The weights were never loaded." in write_report("paper")


def test_an_unknown_verdict_is_refused(results):
    (results / "verdicts.yaml").write_text("fig2b: {verdict: great, sentence: ''}\n")
    with pytest.raises(ValueError, match=r"verdict of fig2b must be one of agrees, .*, not run, .*, got 'great'"):
        load(results, "paper")
