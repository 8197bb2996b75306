"""What bench train counts, and that its peers compute what ours does."""

import json

import pytest
import torch

from lmsleep.bench.peers import gated_delta_transformers
from lmsleep.bench.presets import PRESETS
from lmsleep.bench.train import Row, main, si, step_flops, token_passes
from lmsleep.cli import main as lmsleep
from lmsleep.ops.gated_delta.naive import gated_delta_naive


def test_token_passes_of_the_paper_s_runs():
    rule110, depo = PRESETS["rule110-paper"], PRESETS["depo-paper"]
    rows = rule110.task.rows(split="train", seed=0, step=0, batch_size=2)
    assert [token_passes(rule110.task, rows, n) for n in (1, 4)] == [2 * (96 * n + 4) for n in (1, 4)]
    rows = depo.task.rows(split="train", seed=0, step=0, batch_size=2)
    assert [token_passes(depo.task, rows, n) for n in (1, 4)] == [2 * (300 * n + 60) for n in (1, 4)]


def test_operations_of_a_step_are_three_times_those_of_the_products():
    preset = PRESETS["rule110-paper"]
    config = preset.model.for_task(preset.task.vocab_size, preset.task.window_size)
    rows = preset.task.rows(split="train", seed=0, step=0, batch_size=2)
    model = config.build("meta")
    # Two operations a weight; scores and values against a window of 24; three (64, 64) products a head.
    linear = sum(m.weight.numel() for m in model.blocks.modules() if isinstance(m, torch.nn.Linear))
    mixing = 2 * 4 * 24 * 256 + 2 * 6 * 4 * 64 * 64
    expected = 3 * (2 * (96 * 4 + 4) * (2 * linear + mixing) + 2 * 4 * 2 * 3 * 256)
    assert step_flops(model, rows, token_passes(preset.task, rows, 4)) == expected


def test_the_transformers_peer_computes_the_rule():
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    q, k, v = (torch.nn.functional.normalize(torch.randn(2, 3, 10, 8), dim=-1) for _ in range(3))
    inputs = [q, k, v, -torch.rand(2, 3, 10), torch.rand(2, 3, 10), torch.randn(2, 3, 8, 8)]
    torch.testing.assert_close(gated_delta_transformers(*inputs), gated_delta_naive(*inputs), atol=1e-5, rtol=1e-4)


def test_prints_a_table_and_one_json_line_and_writes_it(tmp_path, capsys):
    options = ["--passes=[1,2]", "--variants=[ours,transformers]", "--steps=2", f"--out={tmp_path / 'x.json'}"]
    lmsleep(["bench", "train", *options])
    printed = capsys.readouterr().out.strip().split("\n")
    rows = json.loads(printed[-1])["rows"]
    assert printed[-1] == (tmp_path / "x.json").read_text().strip()
    assert [(row["variant"], row["n_passes"]) for row in rows] == [
        (variant, n) for n in (1, 2) for variant in ("ours", "transformers")
    ]
    for row in rows:
        batch, tokens = 64, 2 * 12 + 2
        assert row["tokens_per_second"] == pytest.approx(batch * tokens / row["ms_per_step"] * 1e3)
        passes = batch * (24 * row["n_passes"] + 2)
        assert row["token_passes_per_second"] == pytest.approx(passes / row["ms_per_step"] * 1e3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ['--variants=["ours, graph"]'],
            "error: accelerate='graph' needs a CUDA device, got cpu; use 'compile' or 'none'",
        ),
        (["--variants=[fla]"], "error: gated_delta: backend 'fla' cannot run: no CUDA device; use 'torch', 'naive'"),
        (["--passes=[0]"], "error: n_passes must be 1 or more"),
        (["--device", "cuda"], "error: device must be one that torch can use here, such as cpu, got 'cuda'"),
        (["--steps", "0"], "error: steps must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        lmsleep(["bench", "train", *arguments])
    assert str(stop.value).startswith(sentence)


def test_what_was_measured_before_an_end_is_kept(tmp_path, monkeypatch):
    def ends_at_2(preset, variant, n_passes, *_):
        if n_passes == 2:
            raise KeyboardInterrupt
        return Row(preset, variant, n_passes, "fp32", 1.0, 0.0, 1.0, 1.0, 1.0, None, None, 0.0)

    monkeypatch.setattr("lmsleep.bench.train.measure", ends_at_2)
    with pytest.raises(KeyboardInterrupt):
        main(passes=[1, 2], variants=["ours"], device="cpu", out=tmp_path / "x.json")
    assert [row["n_passes"] for row in json.loads((tmp_path / "x.json").read_text())["rows"]] == [1]


@pytest.mark.parametrize(("value", "shown"), [(13_240_000, "13.2 M"), (65_708, "65.7 k"), (516.2, "516")])
def test_large_numbers_are_short(value, shown):
    assert si(value) == shown
