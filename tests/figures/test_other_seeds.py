"""Curves of which some have more seeds than others: a line for each run, and numbers that leave them out if told to."""

import json

import pandas as pd
import pytest

from lmsleep.cli import run
from lmsleep.figures import draw as stage
from lmsleep.figures.plots import style
from lmsleep.figures.table import COLUMNS


def curves(*runs, figure="fig2b"):
    """Runs (N, seed, end): they rise from 0.1 to their end, and score 0.02 less at the test."""
    return pd.DataFrame(
        [
            (figure, "AG", n, seed, level, tokens, metric, value)
            for n, seed, end in runs
            for level in ("5", "all")
            for tokens, metric, value in (
                *((10, "val_exact", 0.1), (20, "val_exact", end)),
                *((25, "test_exact", end - 0.02), (25, "test_count", 400), (25, "test_rows", 100)),
            )
        ],
        columns=COLUMNS,
    )


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """drawn(table, seeds=None, *options): its lines with a label, its note, and its numbers."""
    (tmp_path / "baselines.json").write_text(json.dumps({"majority": {"5": 0.1}, "chance": {"5": 0.06}}))
    kept = []
    monkeypatch.setattr(style, "save", lambda figure, stem: kept.append(figure))

    def drawn(table, seeds=None, *options):
        words = ["--figure", "fig2b", "--scale", "paper", "--data", str(tmp_path), "--out", str(tmp_path / "fig2b")]
        for name, frame in (("table", table), ("seeds", seeds)):
            if frame is not None:
                frame.to_csv(tmp_path / f"{name}.csv", index=False)
                words += [f"--{name}", str(tmp_path / f"{name}.csv")]
        run(stage.main, [*words, *options])
        figure = kept[-1]
        lines = {line.get_label(): line for line in figure.axes[0].lines if str(line.get_label()).startswith("N")}
        return lines, figure, json.loads((tmp_path / "fig2b.json").read_text())

    return drawn


ONE_EACH, SECOND = curves((1, 0, 0.4), (4, 0, 0.9)), curves((1, 1, 0.3))


def test_another_seed_of_one_n_is_a_dashed_line_of_its_own_and_not_in_the_numbers(drawn):
    lines, figure, numbers = drawn(ONE_EACH, SECOND)
    assert {label: list(line.get_ydata()) for label, line in lines.items()} == {
        "N = 1": [0.1, 0.4],
        "N = 1, seed 1": [0.1, 0.3],
        "N = 4": [0.1, 0.9],
    }
    assert [line.get_linestyle() for line in lines.values()] == ["-", "--", "-"]
    assert lines["N = 1"].get_color() == lines["N = 1, seed 1"].get_color() != lines["N = 4"].get_color()
    tests = sorted(float(bar[0].get_ydata()[0]) for bar in figure.axes[0].containers)
    assert tests == pytest.approx([0.28, 0.38, 0.88])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {*lines}
    assert "1 to 2 seeds. Lines: validation, one run each" in figure.get_supxlabel()
    assert "dot" not in figure.get_supxlabel()
    assert numbers == drawn(ONE_EACH)[2] and {r["n"] for r in numbers["test_exact"]} == {1}


def test_a_table_with_more_seeds_of_one_n_shows_each_and_with_as_many_of_all_their_means(drawn):
    lines, _, numbers = drawn(pd.concat([ONE_EACH, SECOND]))
    assert {*lines} == {"N = 1", "N = 1, seed 1", "N = 4"}
    assert [(r["n_passes"], r["n"]) for r in numbers["test_exact"]] == [(1, 2), (4, 1)]
    lines, figure, _ = drawn(pd.concat([ONE_EACH, SECOND, curves((4, 1, 0.8))]))
    assert {label: list(line.get_ydata()) for label, line in lines.items()} == {
        "N = 1": [0.1, pytest.approx(0.35)],
        "N = 4": [0.1, pytest.approx(0.85)],
    }
    assert "2 seeds. Lines: validation, mean over seeds" in figure.get_supxlabel()


def test_other_seeds_of_validations_are_shown_too(drawn):
    ends = [table[table.metric == "val_exact"] for table in (ONE_EACH, SECOND)]
    lines, _, numbers = drawn(*ends)
    assert {*lines} == {"N = 1", "N = 1, seed 1", "N = 4"}
    assert [(r["n_passes"], r["value"], r["n"]) for r in numbers["val_exact"]] == [(1, 0.4, 1), (4, 0.9, 1)]


@pytest.mark.parametrize(
    ("seeds", "options", "message"),
    [
        (curves((1, 0, 0.3)), [], r"^error: \S*seeds\.csv: seeds must be others than those of the table, got \[0\]"),
        (
            curves((1, 1, 0.3), (4, 1, 0.8)),
            [],
            r"^error: \S*seeds\.csv: .* leave others with one, .* got '2 to 2 of each'",
        ),
        (SECOND, ["--figure", "controls"], r"seeds must be left out with a figure without curves, got 'controls'"),
    ],
)
def test_seeds_that_do_not_fit_get_one_sentence_and_leave_nothing(drawn, tmp_path, seeds, options, message):
    with pytest.raises(SystemExit, match=message):
        drawn(ONE_EACH, seeds, *options)
    assert not (tmp_path / "fig2b.json").exists()
