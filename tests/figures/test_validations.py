"""Figures from validations: run folders written out here, numbers worked out by hand."""

import json

import pandas as pd
import pytest
import yaml

from lmsleep.cli import run
from lmsleep.figures import draw as stage
from lmsleep.figures import table
from lmsleep.figures.plots import style

# exact accuracy by (N, seed) at 10, 20 and 30 thousand tokens; the last run is cut off, after a validation of its own
EXACT = {(1, 0): (0.1, 0.3, 0.3), (1, 1): (0.1, 0.4, 0.5), (2, 0): (0.1, 0.5, 0.9), (2, 1): (0.1, 0.5)}


def write_run(folder, n_passes, seed, exact, last=None):
    folder.mkdir(parents=True)
    config = {"model": {"model": {"pattern": "AG"}}, "data": {"seed": seed}, "sleep": {"n_passes": n_passes}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    steps = [(10 * i, value) for i, value in enumerate(exact, start=1)] + ([] if last is None else [last])
    rows = [f"{s},{1000 * s},{v},{v},100,100" for s, v in steps]
    (folder / "curve.csv").write_text("\n".join(["step,tokens,exact,exact-5,count,count-5", *rows]) + "\n")


@pytest.fixture
def runs(tmp_path):
    """A folder of runs, beside it the baselines."""
    for (n, seed), exact in EXACT.items():
        write_run(tmp_path / "runs" / f"n{n}-s{seed}", n, seed, exact, (23, 0.7) if len(exact) == 2 else None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "baselines.json").write_text(json.dumps({"majority": {"5": 0.1}, "chance": {"5": 0.06}}))
    return tmp_path / "runs"


def draw(runs, *options):
    out = runs.parent / "out" / "fig2b"
    csv = out.with_suffix(".csv")
    run(table.main, ["--figure", "fig2b", "--runs", str(runs), "--out", str(csv)])
    return drawn(csv, runs.parent / "data", out, *options)


def drawn(csv, data, out, *options):
    words = ["--figure", "fig2b", "--scale", "paper", "--table", str(csv), "--data", str(data), "--out", str(out)]
    run(stage.main, [*words, *options])
    return json.loads(out.with_suffix(".json").read_text())


def test_a_figure_of_ones_own_that_has_a_grid_is_drawn_as_one_curve_for_each_n(runs, monkeypatch):
    want = draw(runs)
    with pytest.raises(SystemExit, match=r"or have a grid in params\.yaml, got 'parity'"):
        draw(runs, "--figure=parity")
    monkeypatch.setattr(stage, "grids", lambda: {"parity": {}})
    assert draw(runs, "--figure=parity") == want


def test_runs_are_compared_at_the_last_tokens_that_all_have(runs):
    numbers = draw(runs)
    assert [(r["tokens"], r["n_passes"], r["value"], r["answers"]) for r in numbers["val_exact"]] == [
        (20_000, 1, pytest.approx(0.35), 200),
        (20_000, 2, pytest.approx(0.5), 200),
    ]
    (difference,) = numbers["overall"]  # seeds differ by 0.2 and 0.1
    assert (difference["value"], difference["n"], difference["low"]) == (pytest.approx(0.15), 2, None)
    assert {path.name for path in (runs.parent / "out").iterdir()} == {
        f"fig2b.{suffix}" for suffix in ("csv", "json", "meta.json", "png", "svg")
    }


def test_other_tokens_compare_the_runs_that_came_that_far(runs):
    numbers = draw(runs, "--at=[20000, 30000]")
    assert [(r["tokens"], r["n_passes"], r["n"]) for r in numbers["val_exact"]] == [
        *((20_000, 1, 2), (20_000, 2, 2)),
        *((30_000, 1, 2), (30_000, 2, 1)),
    ]
    assert numbers["difference"][1]["value"] == pytest.approx(0.6)  # of seed 0 alone


def test_the_table_has_every_validation_and_the_picture_those_of_all_seeds(runs, monkeypatch):
    kept = []
    monkeypatch.setattr(style, "save", lambda figure, stem: kept.append(figure))
    draw(runs)
    table = pd.read_csv(runs.parent / "out" / "fig2b.csv", dtype={"slice": str})
    exact = table[(table.metric == "val_exact") & (table["slice"] == "5")]
    assert dict(exact.groupby(["n_passes", "seed"]).tokens.max()) == {
        (1, 0): 3e4,
        (1, 1): 3e4,
        (2, 0): 3e4,
        (2, 1): 23e3,
    }
    lines = {line.get_label(): line for line in kept[0].axes[0].lines}
    assert list(lines["N = 1"].get_xdata()) == [1e4, 2e4, 3e4]
    assert list(lines["N = 2"].get_xdata()) == [1e4, 2e4]


def test_a_table_is_drawn_anew_without_its_runs(runs):
    numbers = draw(runs)
    csv, again = runs.parent / "out" / "fig2b.csv", runs.parent / "again" / "fig2b"
    assert drawn(csv, runs.parent / "data", again) == numbers
    assert again.with_suffix(".svg").read_bytes() == csv.with_suffix(".svg").read_bytes()
    assert {path.suffix for path in again.parent.iterdir()} == {".json", ".png", ".svg"}
    with pytest.raises(SystemExit, match=r"^error: there is no file .*gone.csv"):
        drawn(runs.parent / "gone.csv", runs.parent / "data", again)


@pytest.mark.parametrize(
    ("break_it", "options", "message"),
    [
        (
            lambda runs: None,
            ["--at=[25000]"],
            r"at must be tokens at which a run was validated .*30,000\), got 25,000",
        ),
        (
            lambda runs: write_run(runs / "twin", 1, 0, (0.1,)),
            [],
            r"runs in .*runs' must differ in model, N, slice or seed",
        ),
        (lambda runs: write_run(runs / "late", 4, 0, (), (7, 0.1)), [], r"validation at the same tokens, got none"),
        (
            lambda runs: (runs.parent / "data" / "baselines.json").unlink(),
            [],
            r"data must hold baselines.json, found none",
        ),
        (lambda runs: None, ["--out", "results/t1.5"], r"out must be a name without suffix, got 'results/t1.5'"),
        (lambda runs: None, ["--figure", "fig9"], r"figure must be one of fig2a, .*, got 'fig9'"),
        (
            lambda runs: (runs.parent / "data" / "baselines.json").write_text('{"majority": {"5": 0.1}}'),
            [],
            r"data must hold the baseline 'chance', got",
        ),
        (lambda runs: runs.rename(runs.parent / "gone"), [], r"runs must be a folder of run folders .*, got '.*runs'"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(runs, break_it, options, message):
    break_it(runs)
    with pytest.raises(SystemExit, match=message):
        draw(runs, *options)
    assert not (runs.parent / "out" / "fig2b.json").exists()
