"""A figure's table and what its runs were made with, from two run folders written out here."""

import json

import pandas as pd
import pytest
import yaml

from lmsleep.pipeline.aggregate import main
from lmsleep.pipeline.table import COLUMNS


@pytest.fixture
def aggregated(tmp_path):
    """What is made of two finished runs, one without a record of its commit, and their test scores."""
    records = (
        {"hardware": "x86_64 CPU, 2 cores", "torch": "2.13.0", "commit": None},
        {"hardware": "GPU", "torch": "2.13.0", "commit": "abc"},
    )
    for n_passes, record in zip((2, 1), records, strict=True):
        run = tmp_path / "runs" / f"n{n_passes}-s0"
        run.mkdir(parents=True)
        config = {"model": {"model": {"pattern": "AG"}}, "data": {"seed": 0}, "sleep": {"n_passes": n_passes}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "curve.csv").write_text(f"step,tokens,exact\n10,1000,0.{n_passes}\n")
        (run / "run.json").write_text(json.dumps({"seconds": 1.0, "args": []} | record))
    scores = [("fig2b", "AG", n, 0, 5, 1000, "test_exact", 0.123456789) for n in (1, 2)]
    pd.DataFrame(scores, columns=COLUMNS).to_csv(tmp_path / "scores.csv")
    out = tmp_path / "out" / "fig2b.csv"
    inputs = ["--runs", str(tmp_path / "runs"), "--scores", str(tmp_path / "scores.csv")]
    main(["--figure", "fig2b", *inputs, "--out", str(out)])
    return out


def test_curves_and_scores_in_one_sorted_table(aggregated):
    table = pd.read_csv(aggregated, dtype={"slice": str})
    assert list(table.columns) == COLUMNS
    assert table.n_passes.tolist() == [1, 1, 2, 2]
    assert table.metric.tolist() == ["test_exact", "val_exact"] * 2
    assert table.value.tolist() == [0.123457, 0.1, 0.123457, 0.2]


def test_the_runs_say_what_they_were_made_with(aggregated):
    assert json.loads(aggregated.with_suffix(".meta.json").read_text()) == {
        "runs": 2,
        "hardware": ["GPU", "x86_64 CPU, 2 cores"],
        "torch": ["2.13.0"],
        "commit": ["abc"],
    }


@pytest.mark.parametrize("missing", ["runs", "scores.csv", "runs/n1-s0/curve.csv", "runs/n2-s0/run.json"])
def test_what_is_missing_is_named_and_nothing_is_written(aggregated, tmp_path, missing):
    path = tmp_path / missing
    path.rename(tmp_path / "elsewhere")
    refused = "runs must be a folder with finished runs, got" if missing == "runs" else "there is no file or folder"
    inputs = ["--runs", str(tmp_path / "runs"), "--scores", str(tmp_path / "scores.csv")]
    with pytest.raises(SystemExit, match=f"^error: {refused} '{path}'$"):
        main(["--figure", "fig2b", *inputs, "--out", str(tmp_path / "again" / "fig2b.csv")])
    assert not (tmp_path / "again").exists()
