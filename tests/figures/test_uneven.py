"""Tables that lack a run, or have one twice or of another figure: no number is shifted, and none is lost unseen."""

import itertools
import json
from pathlib import Path

import pandas as pd
import pytest

from lmsleep.cli import run
from lmsleep.figures import draw as stage
from lmsleep.figures import probe as probe_stage
from lmsleep.figures import table
from lmsleep.figures.plots.ours import verdicts
from lmsleep.figures.plots.probe import probe_gains
from lmsleep.figures.plots.text import best_lengths, differences, natural_text, validations
from lmsleep.figures.stats import exact_accuracy
from lmsleep.figures.table import COLUMNS

ROOT = Path(__file__).parents[2]


def frame(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


def scores(figure="fig2b", model="AG", seeds=(0, 1, 2), passes=(1, 4), split="test"):
    """Exact answers of 0.1 N + 0.01 seed, in one slice and over all."""
    return frame(
        *(
            (figure, model, n, seed, level, 20, f"{split}_{name}", value)
            for n, seed, level in itertools.product(passes, seeds, ("5", "all"))
            for name, value in (("exact", 0.1 * n + 0.01 * seed), ("count", 400.0), ("rows", 100.0))
        )
    )


@pytest.fixture
def drawn(tmp_path):
    """drawn(table, *options): the numbers of figure 2b, or of another that the options name."""
    (tmp_path / "baselines.json").write_text(json.dumps({"majority": {"5": 0.1}, "chance": {"5": 0.06}}))
    (tmp_path / "corpus.json").write_text("{}")

    def drawn(table, *options):
        table.to_csv(tmp_path / "in.csv", index=False)
        words = ["--figure", "fig2b", "--scale", "paper", "--table", str(tmp_path / "in.csv")]
        run(stage.main, [*words, "--data", str(tmp_path), "--out", str(tmp_path / "out"), *options])
        return json.loads((tmp_path / "out.json").read_text())

    return drawn


def probed(*seeds_and_passes):
    values = {(seed, made): 0.5 + 0.1 * made + 0.01 * seed * made for seed, made in seeds_and_passes}
    rows = [
        {"figure": "fig2b", "n_passes": 2, "metric": "probe_label", "seed": seed, "passes": made, "value": value}
        for (seed, made), value in values.items()
    ]
    return pd.DataFrame(rows)


def test_what_passes_add_is_that_of_the_seeds_that_have_both():
    """Seeds 0 to 2 gain 0.1, 0.11 and 0.12; seed 3 was read after its first pass alone."""
    (record,) = probe_gains(probed(*itertools.product((0, 1, 2), (1, 2)), (3, 1)))
    assert (record["value"], record["n"], record["verdict"]) == (pytest.approx(0.11), 3, "more")
    assert probe_gains(probed((0, 1), (1, 2))) == []


def test_accuracy_is_that_of_the_seeds_that_have_one():
    """Seed 0 has its sizes and no score."""
    uneven = scores(passes=(1,), seeds=(0, 1, 2, 3))
    uneven = uneven[(uneven.metric != "test_exact") | (uneven.seed > 0)]
    (record,) = exact_accuracy(uneven, ["n_passes"])
    assert (record["value"], record["n"], record["answers"], record["rows"]) == (pytest.approx(0.12), 3, 1200, 100)
    assert 0 < record["low"] < 0.12 < record["high"]


def test_an_interval_of_seeds_that_agree_has_the_rows_of_any_that_says_them():
    """The first of three seeds at 1 does not: Wilson's lower end over 100 rows is 100 / (100 + z^2)."""
    agree = scores(passes=(10,)).assign(value=lambda t: t.value.where(t.metric != "test_exact", 1.0))
    (record,) = exact_accuracy(agree[(agree.metric != "test_rows") | (agree.seed > 0)], ["n_passes"])
    assert record["rows"] == 100 and record["low"] == pytest.approx(100 / (100 + 1.959963984540054**2))


def test_arms_without_a_seed_of_their_reference_are_not_compared(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = [("arms", arm, 4, seed, "all", 20, "test_exact", 0.5) for arm, seed in (("n4", 0), ("n1", 1))]
    assert verdicts(frame(*rows), "controls") == []


def test_losses_without_a_seed_in_common_are_not_compared():
    rows = [(1, 1, 0, 2.0), (1, 1, 1, 2.5), (4, 4, 2, 1.0), (2, 2, 1, 2.0)]
    losses = pd.DataFrame(rows, columns=["n_passes", "trained_as", "seed", "value"])
    records = differences(losses.assign(metric="test_loss", slice=0), {1: 1, 2: 1, 4: 1})
    assert {(r["n_passes"], r["value"], r["n"]) for r in records} == {(2, -0.5, 1)}


def test_the_best_length_is_found_though_validations_end_before_the_training():
    """N = 1 of twice the tokens has the lower loss at its last validation, ten tokens before its end."""
    ends = [("AG-k1", 1, 100, 2.0), ("AG-k2", 1, 200, 1.0), ("AG-k1", 4, 100, 1.5)]
    table = frame(*(("text", model, n, 0, "all", at - 10, "val_loss", loss) for model, n, at, loss in ends))
    tests = frame(*(("text", model, n, 0, "0", at, "test_loss", loss) for model, n, at, loss in ends))
    assert best_lengths(tests.assign(trained_as=[1, 4, 4]), validations(table)) == {1: 1, 4: 4}
    with pytest.raises(ValueError, match=r"^models of N = 1 must each have a val_loss, got 'none for AG-k2'$"):
        best_lengths(tests.assign(trained_as=[1, 4, 4]), validations(table[table.model != "AG-k2"]))


def test_natural_text_is_drawn_of_no_other_scores(tmp_path):
    (tmp_path / "corpus.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^metric must be test_loss for some rows over all slices, got 'foo'$"):
        natural_text(scores().assign(metric="foo"), tmp_path, "mini")


@pytest.mark.parametrize("metric", ["test_exact", "val_exact"])
def test_a_row_twice_would_count_a_seed_twice_and_is_refused(drawn, tmp_path, metric):
    both = pd.concat([scores(), scores(split="val")])
    twice = both[(both.metric == metric) & (both.seed == 1) & (both.n_passes == 4)]
    assert drawn(both)["overall"][0]["n"] == 3
    (tmp_path / "out.json").unlink()
    said = f"in.csv: rows must differ in more than their value, got twice fig2b, AG, 4, 1, 5, 20, {metric}$"
    with pytest.raises(SystemExit, match=said):
        drawn(pd.concat([both, twice.assign(value=0.9)]))
    assert not (tmp_path / "out.json").exists()


def test_a_row_twice_of_the_scores_of_others_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("grids: {fig2b: {n_passes: [1, 4]}}")
    whole = scores()[lambda t: t.slice == "all"]
    pd.concat([whole, whole[-3:]]).to_csv("fig2b.csv", index=False)
    with pytest.raises(ValueError, match=r"got twice fig2b, AG, 4, 2, all, 20, test_exact$"):
        stage.read(Path())


def test_a_figure_over_steps_has_a_row_over_all_slices_for_each_of_its_grid(tmp_path):
    both = pd.concat([scores("fig2a", passes=(1,)), scores("fig2a", passes=(1,)).replace({"slice": {"5": "6"}})])
    both.to_csv(tmp_path / "fig2a.csv", index=False)
    assert len(stage.read(tmp_path / "fig2a.csv")) == len(both)


def test_tokens_to_compare_at_are_refused_with_test_scores(drawn, tmp_path):
    with pytest.raises(SystemExit, match=r"--at must be left out with a table that has test scores, got \[20\]$"):
        drawn(pd.concat([scores(), scores(split="val")]), "--at=[20]")
    assert not (tmp_path / "out.json").exists()


def test_a_table_takes_no_scores_of_another_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "run_folders", lambda *_: [])
    scores("fig4a").to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(ValueError, match=r"scores\.csv: figure must be 'fig5' in every row, got 'fig4a'$"):
        table.main("fig5", tmp_path, tmp_path / "out.csv", tmp_path / "scores.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--passes=[]", "passes must be one or more, got none"),
        ("--seeds=[]", "seeds must be one or more, got none"),
        ("--seeds=[1,1]", "seeds must differ, got 1, 1"),
        ("--figures=[]", "figures must be one or more, got none"),
        ("--most=0", "most must be 1 or more, got 0"),
        ("--rows=[128,0,32]", r"rows must be 2 or more each, got \(128, 0, 32\)"),
    ],
)
def test_probes_of_nothing_are_refused_before_a_run_is_read(tmp_path, option, said):
    words = ["--runs", str(tmp_path), "--out", str(tmp_path / "out.csv"), "--passes=[1]", "--seeds=[1]", option]
    with pytest.raises(SystemExit, match=rf"^error: (--)?{said}$"):
        run(probe_stage.main, words)
    assert not list(tmp_path.iterdir())
