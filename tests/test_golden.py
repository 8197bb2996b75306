"""Frozen numbers: logits of fixed weights, and the first losses for each rule and N.

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
HEADS, WIDTH = (32, 64), 64  # sizes of a head that the CUDA kernels take
RUNS, STEPS = [(pattern, n) for pattern in ("AG", "AM", "AJ") for n in (1, 2, 4)], 20
TASK = Rule110(steps=1, width=8, n_states=2)
# Training magnifies rounding, the more the larger its steps: at muon_lr 2e-3 weights changed by a millionth move losses
# of N = 4 by more than a tenth. With the small steps and output projections below that is 2e-6, float32 moves them by
# 2e-6, and Newton-Schulz in bfloat16, as it runs on CUDA, by 1.2e-4.
TOLERANCE = {"logits": {"cpu": 2e-5, "cuda": 2e-4}, "losses": {"cpu": 2e-5, "cuda": 1e-3}}
NAIVE = dict.fromkeys(("gated_delta", "ssd", "short_conv", "dynamic_conv"), "naive")


def fixed_model(pattern, head, dtype, device):
    """Weights that depend on no random generator: a chirp, whose matrices have full rank, of ordinary size, at output
    projections of a third of it; decays spread over the heads."""
    model = HybridConfig(TASK.vocab_size, WIDTH, pattern, TASK.window_size, n_heads=WIDTH // head).build().to(dtype)
    with torch.no_grad():
        for i, (name, p) in enumerate(model.named_parameters()):
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float64) ** 2 * (0.7 + 0.1 * i) + i).view(p.shape)
            if name.endswith(("A_log", "dt_bias")):
                p.copy_(wave - 1)
            elif p.ndim == 1:
                p.copy_(1 + wave / 10)
            else:
                p.copy_(wave * p.shape[1] ** -0.5)
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
                p.mul_(0.3)
    return model.to(device)


def logits(pattern, head, dtype, device="cpu"):
    """(2, 2, 3) as nested lists, after two sleeps of three passes."""
    batch = TASK.rows(split="test", seed=0, step=0, batch_size=2)
    with torch.no_grad():
        model = fixed_model(pattern, head, dtype, device)
        out = read_windows(model, batch.tokens.to(device), batch.targets.to(device), n_passes=3)
    return out.scored_logits.double().cpu().tolist()


def losses(pattern, n_passes, dtype, device="cpu"):
    """Of the training steps of a run, on batches of 16 rows."""
    model = fixed_model(pattern, 32, dtype, device)
    optimizer = OptimizerConfig(muon_lr=2e-4, adamw_lr=2e-4).build(model.blocks, model)
    values = []
    for step in range(STEPS):
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
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_logits(pattern, head, device):
    limit = TOLERANCE["logits"][device]
    got, want = logits(pattern, head, torch.float32, device), read("logits")[pattern][str(head)]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want), rtol=limit, atol=limit)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("pattern", "n_passes"), RUNS)
def test_losses(pattern, n_passes, device):
    got, want = losses(pattern, n_passes, torch.float32, device), read("losses")[f"{pattern} {n_passes}"]
    assert got == pytest.approx(want, rel=TOLERANCE["losses"][device])


@pytest.mark.parametrize("pattern", ["AG", "AM", "AJ"])
def test_more_passes_are_another_curve(pattern):
    curves = read("losses")
    assert max(abs(a - b) for a, b in zip(curves[f"{pattern} 1"], curves[f"{pattern} 4"], strict=True)) > 0.05


if __name__ == "__main__":
    with use_backend(**NAIVE):
        numbers = {
            "logits": {p: {head: logits(p, head, torch.float64) for head in HEADS} for p in PATTERNS},
            "losses": {f"{p} {n}": losses(p, n, torch.float64) for p, n in RUNS},
        }
    GOLDEN.mkdir(exist_ok=True)
    for name, values in numbers.items():
        (GOLDEN / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
