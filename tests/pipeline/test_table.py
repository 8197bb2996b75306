"""Tidy tables read from a run folder that is written out here."""

import pandas as pd
import pytest
import yaml

from lmsleep.pipeline.table import COLUMNS, curve, run_columns


@pytest.fixture
def run(tmp_path):
    config = {
        "model": {"model": {"pattern": "AGAG", "d_model": 48}},
        "data": {"seed": 3, "batch_size": 64},
        "sleep": {"n_passes": 4, "eviction": "hard"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "curve.csv").write_text(
        "step,tokens,loss,exact,exact/2,exact/16\n10,1000,2.5,0.1,0.2,\n20,2000,1.5,0.3,0.4,0.05\n"
    )
    return tmp_path


def test_columns_come_from_the_configuration_and_the_last_step(run):
    assert run_columns("fig3", run) == {"figure": "fig3", "model": "AGAG", "n_passes": 4, "seed": 3, "tokens": 2000}


def test_a_pretrained_model_is_named_after_its_weights(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"] = {"model": None, "init_from": "models/ouro_1_4b"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert run_columns("fig4b", run)["model"] == "ouro_1_4b"


def test_a_curve_becomes_a_row_for_each_metric_slice_and_step(run):
    table = curve("fig3", run)
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


def test_curves_of_several_runs_stack(run):
    both = pd.concat([curve("fig3", run), curve("fig3", run)])
    assert len(both) == 14
