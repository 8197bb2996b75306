"""Frozen numbers: logits of fixed weights, and the first fifty losses for each N.

The files in `golden/` were computed in float64 by the loops over time, so that they are right and not merely old. The
fast backends in float32 must stay within TOLERANCE of them, on a CPU and on CUDA alike. After a change that is meant to
change the numbers, write them anew: python tests/test_golden.py
"""

import json
from pathlib import Path

import pytest
import torch

from lmsleep import HybridConfig, read_windows
from lmsleep.ops import use_backend
from lmsleep.tasks import Rule110
from lmsleep.training import OptimizerConfig

GOLDEN = Path(__file__).parent / "golden"
PATTERNS = ("AGAG", "AMAM", "AJAJ")
TASK = Rule110(steps=1, width=8, n_states=2)
TOLERANCE = {"logits": {"cpu": 2e-5, "cuda": 2e-4}, "losses": {"cpu": 1e-2, "cuda": 5e-2}}
NAIVE = dict.fromkeys(("gated_delta", "ssd", "short_conv", "dynamic_conv"), "naive")


def fixed_model(pattern, dtype, device):
    """Weights that depend on no random generator: sines of ordinary size, decays spread over the heads."""
    model = HybridConfig(TASK.vocab_size, 16, pattern, TASK.window_size, n_heads=2).build().to(dtype)
    with torch.no_grad():
        for i, (name, p) in enumerate(model.named_parameters()):
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * (0.7 + 0.1 * i) + i).view(p.shape)
            if name.endswith(("A_log", "dt_bias")):
                p.copy_(wave - 1)
            elif p.ndim == 1:
                p.copy_(1 + wave / 10)
            else:
                p.copy_(wave * p.shape[1] ** -0.5)
    return model.to(device)


def logits(pattern, dtype, device="cpu"):
    """(2, 2, 3) as nested lists, after two sleeps of three passes."""
    batch = TASK.rows(split="test", seed=0, step=0, batch_size=2)
    with torch.no_grad():
        model = fixed_model(pattern, dtype, device)
        out = read_windows(model, batch.tokens.to(device), batch.targets.to(device), n_passes=3)
    return out.scored_logits.double().cpu().tolist()


def losses(n_passes, dtype, device="cpu"):
    """Of fifty training steps on batches of 16 rows."""
    model = fixed_model("AG", dtype, device)
    optimizer = OptimizerConfig(muon_lr=2e-3, adamw_lr=1e-3).build(model.blocks, model)
    values = []
    for step in range(50):
        batch = TASK.rows(split="train", seed=0, step=step, batch_size=16)
        loss = read_windows(model, batch.tokens.to(device), batch.targets.to(device), n_passes).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def read(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_cuda])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_logits(pattern, device):
    limit = TOLERANCE["logits"][device]
    got, want = torch.tensor(logits(pattern, torch.float32, device)), torch.tensor(read("logits")[pattern])
    torch.testing.assert_close(got, want, rtol=limit, atol=limit)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_passes", [1, 2, 4])
def test_losses(n_passes, device):
    limit = TOLERANCE["losses"][device]
    assert losses(n_passes, torch.float32, device) == pytest.approx(read("losses")[str(n_passes)], rel=limit)


def test_more_passes_are_another_curve():
    curves = read("losses")
    assert max(abs(a - b) for a, b in zip(curves["1"], curves["4"], strict=True)) > 0.05


if __name__ == "__main__":
    with use_backend(**NAIVE):
        numbers = {
            "logits": {pattern: logits(pattern, torch.float64) for pattern in PATTERNS},
            "losses": {n: losses(n, torch.float64) for n in (1, 2, 4)},
        }
    GOLDEN.mkdir(exist_ok=True)
    for name, values in numbers.items():
        (GOLDEN / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
