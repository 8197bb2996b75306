"""What bench scale says, and that what it compares is equal where it should be."""

import json
from pathlib import Path

import pytest
import torch

from lmsleep.bench.scale import add_comparisons, gradient_error
from lmsleep.cli import main as lmsleep

RULE110 = Path(__file__).parents[2] / "configs" / "experiment" / "smoke" / "rule110.yaml"
SMALL = [f"--config={RULE110}", "--trainer.accelerator=cpu", "--model.model.zero_init=false", "--steps=2"]


def row(devices, scaling, tokens_per_second, n_passes=1):
    kind = {"devices": devices, "scaling": scaling, "variant": "none", "n_passes": n_passes}
    return kind | {"tokens_per_second": tokens_per_second}


def test_efficiency_is_each_device_s_share_beside_the_smallest_count(tmp_path):
    rows = [row(1, "strong", 100.0), row(1, "strong", 30.0, 4), row(2, "strong", 150.0), row(2, "weak", 190.0)]
    rows.append(row(2, "weak", 60.0, 4))
    add_comparisons(rows, tmp_path)
    assert [r["efficiency"] for r in rows] == pytest.approx([1, 1, 0.75, 0.95, 1])
    assert not any("gradient_error" in r for r in rows)


def test_gradients_are_compared_parameter_by_parameter(tmp_path):
    wanted = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([100.0])}
    grads = {"a": torch.tensor([3.0, 4.5]), "b": torch.tensor([101.0])}
    assert gradient_error(grads, wanted) == pytest.approx(0.1)
    assert gradient_error(wanted, wanted) == 0
    assert gradient_error({"a": wanted["a"]}, wanted) == float("inf")
    for devices, of in ((1, wanted), (2, grads)):
        torch.save(of, tmp_path / f"{devices}-none-1.pt")
    rows = [row(1, "strong", 1.0), row(2, "strong", 1.0), row(2, "weak", 1.0)]
    add_comparisons(rows, tmp_path)
    assert [r.get("gradient_error") for r in rows] == [None, pytest.approx(0.1), None]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_take_the_step_of_one(how, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--counts=[1,2]", "--passes=[2]", f"--how={how}", f"--out={tmp_path / 'x.json'}"]
    lmsleep(["bench", "scale", *SMALL, *options])
    assert "gradient_error" in capfd.readouterr().out
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    kinds = [(r["devices"], r["scaling"], r["batch_size"]) for r in rows]
    assert kinds == [(1, "strong", 8), (2, "strong", 8), (2, "weak", 16)]
    assert rows[1]["gradient_error"] < 1e-4
    for r in rows:
        assert r["tokens_per_second"] * r["ms_per_step"] / 1e3 == pytest.approx(r["batch_size"] * 26)
