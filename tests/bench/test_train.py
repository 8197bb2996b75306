"""What bench train says, and that its peers compute what ours does."""

import json
from pathlib import Path

import pytest
import torch

from lmsleep.bench.train import gated_delta_transformers, main, measure
from lmsleep.cli import main as lmsleep
from lmsleep.ops import describe, use_backend
from lmsleep.ops.gated_delta.naive import gated_delta_naive

RULE110 = Path(__file__).parents[2] / "configs" / "experiment" / "smoke" / "rule110.yaml"
SMALL = [f"--config={RULE110}", "--data.eval_rows=8", "--steps=2"]


def test_the_transformers_peer_computes_the_rule():
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    q, k, v = (torch.nn.functional.normalize(torch.randn(2, 3, 10, 8), dim=-1) for _ in range(3))
    inputs = [q, k, v, -torch.rand(2, 3, 10), torch.rand(2, 3, 10), torch.randn(2, 3, 8, 8)]
    torch.testing.assert_close(gated_delta_transformers(*inputs), gated_delta_naive(*inputs), atol=1e-5, rtol=1e-4)


def test_prints_a_table_and_one_json_line_and_writes_it(tmp_path, capsys):
    pytest.importorskip("transformers")
    options = ["--passes=[1,2]", "--variants=[none,transformers]", f"--out={tmp_path / 'x.json'}"]
    lmsleep(["bench", "train", *SMALL, *options])
    printed = capsys.readouterr().out.strip().split("\n")
    rows = json.loads(printed[-1])["rows"]
    assert printed[-1] == (tmp_path / "x.json").read_text().strip()
    assert [(row["variant"], row["n_passes"]) for row in rows] == [
        (variant, n) for n in (1, 2) for variant in ("none", "transformers")
    ]
    assert {row["run"] for row in rows} == {"rule110.yaml"}
    for row in rows:
        ratio = row["token_passes_per_second"] / row["tokens_per_second"]
        assert ratio == pytest.approx((row["n_passes"] * 24 + 2) / 26)  # two states of twelve cells are slept on
        assert row["tokens_per_second"] * row["ms_per_step"] / 1e3 == pytest.approx(8 * 26)


def test_a_peer_is_offered_while_it_is_measured_alone():
    """What `describe` and `lmsleep doctor` say is that of a model of ours, before and afterwards."""
    pytest.importorskip("transformers")
    assert "transformers" not in describe()["gated_delta"].others
    measure(SMALL, "transformers", 1)
    assert "transformers" not in describe()["gated_delta"].others
    with (
        pytest.raises(ValueError, match=r"backend must be one of .*, got 'transformers'"),
        use_backend(gated_delta="transformers"),
    ):
        pass


def test_what_was_measured_before_an_end_is_kept(tmp_path, monkeypatch):
    def ends_at_2(args, variant, n_passes):
        if n_passes == 2:
            raise KeyboardInterrupt
        return {"run": "x", "variant": variant, "n_passes": n_passes, "ms_per_step": 1.0}

    monkeypatch.setattr("lmsleep.bench.train.measure", ends_at_2)
    with pytest.raises(SystemExit, match="130"):
        main([*SMALL, "--passes=[1,2]", "--variants=[none]", f"--out={tmp_path / 'x.json'}"])
    assert [row["n_passes"] for row in json.loads((tmp_path / "x.json").read_text())["rows"]] == [1]
