"""A figure's table and what its runs were made with, from two run folders written out here."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lmsleep.cli import run
from lmsleep.figures.settings import cells
from lmsleep.figures.table import COLUMNS, curve, main, run_columns


@pytest.fixture
def aggregated(tmp_path, monkeypatch):
    """What is made of two finished runs, one without a record of its commit, and their test scores. A third run, of a
    larger grid before, lies beside them."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("grids: {fig2b: {n_passes: [1, 2], seeds: [0]}}")
    records = (
        {"hardware": "x86_64 CPU, 2 cores", "torch": "2.13.0", "commit": None},
        {"hardware": "GPU", "torch": "2.13.0", "commit": "abc"},
    )
    for n_passes, record in zip((2, 1, 4), (*records, records[1] | {"torch": "old"}), strict=True):
        folder = tmp_path / "runs" / f"n{n_passes}-s0"
        folder.mkdir(parents=True)
        config = {"model": {"model": {"pattern": "AG"}}, "data": {"seed": 0}, "sleep": {"n_passes": n_passes}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "curve.csv").write_text(f"step,tokens,exact,count,rows-5\n10,1000,0.{n_passes},8,8\n")
        (folder / "run.json").write_text(json.dumps({"seconds": 1.4, "args": []} | record))
    scores = [("fig2b", "AG", n, 0, 5, 1000, "test_exact", 0.123456789) for n in (1, 2)]
    scores += [("fig2b", "AG", n, 0, 5, 1000, f"{way}_count", 8) for n in (1, 2) for way in ("test", "cut", "test_n3")]
    pd.DataFrame(scores, columns=COLUMNS).to_csv(tmp_path / "scores.csv")
    out = tmp_path / "out" / "fig2b.csv"
    inputs = ["--runs", str(tmp_path / "runs"), "--scores", str(tmp_path / "scores.csv")]
    run(main, ["--figure", "fig2b", *inputs, "--out", str(out)])
    return out


def test_curves_and_scores_of_the_grid_alone_are_in_one_sorted_table(aggregated):
    table = pd.read_csv(aggregated, dtype={"slice": str})
    assert list(table.columns) == COLUMNS
    assert table.n_passes.tolist() == [1, 1, 1, 2, 2, 2]
    assert table.metric.tolist() == ["test_count", "test_exact", "val_exact"] * 2  # sizes of the test alone
    assert table.value.tolist() == [8, 0.123457, 0.1, 8, 0.123457, 0.2]


def test_the_runs_say_what_they_were_made_with(aggregated):
    assert json.loads(aggregated.with_suffix(".meta.json").read_text()) == {
        "runs": 2,
        "seconds": 3,
        "hardware": ["GPU", "x86_64 CPU, 2 cores"],
        "torch": ["2.13.0"],
        "commit": ["abc"],
    }


@pytest.mark.parametrize("missing", ["runs", "scores.csv", "runs/n1-s0/curve.csv"])
def test_what_is_missing_is_named_and_nothing_is_written(aggregated, tmp_path, missing):
    path = tmp_path / missing
    path.rename(tmp_path / "elsewhere")
    inputs = ["--runs", str(tmp_path / "runs"), "--scores", str(tmp_path / "scores.csv")]
    refused = f"there is no file or folder '{path}'"
    if missing == "runs":
        refused = f"--runs must be a folder with all cells of fig2b, got '{path}' without n1-s0, n2-s0"
    with pytest.raises(SystemExit, match=f"^error: {refused}$"):
        run(main, ["--figure", "fig2b", *inputs, "--out", str(tmp_path / "again" / "fig2b.csv")])
    assert not (tmp_path / "again").exists()


def test_without_scores_every_run_is_taken_as_far_as_it_is(aggregated, tmp_path):
    run(main, ["--figure", "fig2b", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "all.csv")])
    table = pd.read_csv(tmp_path / "all.csv")
    exact = table[table.metric == "val_exact"]
    assert exact.n_passes.tolist() == [1, 2, 4] and set(table.metric) == {"val_exact", "val_count", "val_rows"}
    assert json.loads((tmp_path / "all.meta.json").read_text())["runs"] == 3


def test_a_figure_without_a_grid_is_refused(aggregated, tmp_path):
    words = ["--runs", str(tmp_path / "runs"), "--scores", str(tmp_path / "scores.csv"), "--out", "x.csv"]
    with pytest.raises(SystemExit, match=r"^error: --figure must have a grid in params.yaml \(fig2b\), got 'fig9'$"):
        run(main, ["--figure", "fig9", *words])


@pytest.mark.parametrize("axes", ["n_passes: [], seeds: [0]", "n_passes: [1, 2, 1], seeds: [0]"])
def test_a_grid_without_cells_or_with_one_twice_is_refused(aggregated, tmp_path, axes):
    Path("params.yaml").write_text(f"grids: {{fig2b: {{{axes}}}}}")
    words = ["--runs", str(tmp_path / "runs"), "--scores", str(tmp_path / "scores.csv"), "--out", "x.csv"]
    allowed = r"the grid of fig2b in params.yaml must have one or more cells, each of them once"
    with pytest.raises(SystemExit, match=rf"^error: {allowed}, got \{{'n_passes': \["):
        run(main, ["--figure", "fig2b", *words])


@pytest.fixture
def written(tmp_path):
    config = {
        "model": {"model": {"pattern": "AGAG", "d_model": 48}},
        "data": {"seed": 3, "batch_size": 64},
        "sleep": {"n_passes": 4, "eviction": "hard"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "curve.csv").write_text(
        "step,tokens,loss,exact,exact-2,exact-16\n10,1000,2.5,0.1,0.2,\n20,2000,1.5,0.3,0.4,0.05\n"
    )
    return tmp_path


def test_columns_come_from_the_configuration_and_the_last_step(written):
    assert run_columns("fig3", written) == {"figure": "fig3", "model": "AGAG", "n_passes": 4, "seed": 3, "tokens": 2000}
    (written / "run.json").write_text('{"tokens": 2300}')  # it went on after its last validation
    assert run_columns("fig3", written)["tokens"] == 2300


def test_a_pretrained_model_is_named_after_its_weights(written):
    config = yaml.safe_load((written / "config.yaml").read_text())
    config["model"] = {"model": None, "init_from": "models/ouro_1_4b"}
    (written / "config.yaml").write_text(yaml.safe_dump(config))
    assert run_columns("fig4b", written)["model"] == "ouro_1_4b"


def test_a_curve_becomes_a_row_for_each_metric_slice_and_step(written):
    table = curve("fig3", written)
    assert list(table.columns) == COLUMNS
    assert set(table.figure) == {"fig3"}
    found = {(r.metric, r.slice, r.tokens): r.value for r in table.itertuples()}
    assert found == {
        ("val_loss", "all", 1000): 2.5,
        ("val_loss", "all", 2000): 1.5,
        ("val_exact", "all", 1000): 0.1,
        ("val_exact", "all", 2000): 0.3,
        ("val_exact", "2", 1000): 0.2,
        ("val_exact", "2", 2000): 0.4,
        ("val_exact", "16", 2000): 0.05,  # a slice without rows has no row
    }


def test_curves_of_several_runs_stack(written):
    both = pd.concat([curve("fig3", written), curve("fig3", written)])
    assert len(both) == 14


def test_runs_of_other_lengths_are_told_apart(aggregated, tmp_path):
    """Their validations at the same tokens are rows of their own."""
    runs = [{"n_passes": 1, "max_steps": 10}, {"n_passes": 1, "max_steps": 20}]
    Path("params.yaml").write_text(yaml.safe_dump({"grids": {"text": {"runs": runs, "seeds": [0]}}}))
    assert cells("text") == ["n1-k10-s0", "n1-k20-s0"]
    for name in cells("text"):
        shutil.copytree(tmp_path / "runs" / "n1-s0", tmp_path / "text" / name)
    run(main, ["--figure", "text", "--runs", str(tmp_path / "text"), "--out", str(tmp_path / "text.csv")])
    assert pd.read_csv(tmp_path / "text.csv").model.unique().tolist() == ["AG-k10", "AG-k20"]


@pytest.mark.parametrize("grid", [{"threshold": [0.1], "seeds": [0]}, {"runs": [{"n_passes": 2, "threshold": 0.1}]}])
def test_a_grid_over_a_setting_that_no_cell_is_named_by_is_refused(grid, tmp_path, monkeypatch):
    """Two cells would have one name, or one no name at all."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump({"grids": {"mine": grid}}))
    with pytest.raises(ValueError, match=r"^the grid of mine in params\.yaml must be over steps, .* an arm in "):
        cells("mine")
