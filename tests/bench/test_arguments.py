"""What the benchmarks refuse, in one sentence and before anything is measured."""

import os
import re
from pathlib import Path

import pytest
import torch

from lmsleep.cli import main as lmsleep

ROOT = Path(__file__).parents[2]
RUN = [f"--config={ROOT / 'configs/experiment/smoke/rule110.yaml'}", "--steps=2"]
MODEL = [f"--config={ROOT / 'configs/model/mini.yaml'}"]
OPTIONS = {
    "wake": MODEL,
    "window": [*MODEL, "--length=16", "--windows=[4,8]"],
    "train": RUN,
    "scale": RUN,
}
# What measures, and so must not be called.
MEASURES = {"wake": "measure", "window": "measure", "train": "measure", "scale": "run_ranks"}
DEVICES, DEVICE = ("cuda:99", "abacus"), "--device must be one that torch can use here, got"
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that takes no files")
HERE = pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")


@pytest.mark.parametrize(
    ("command", "argument", "message"),
    [
        ("wake", "--config=nothing.yaml", "there is no file or folder 'nothing.yaml'"),
        *(
            (
                of,
                f"--config={ROOT / 'configs/experiment/rule110.yaml'}",
                "--config must be of a model, such as configs/model",
            )
            for of in ("wake", "window")
        ),
        ("wake", "--contexts=[1,1]", "--contexts must differ, got 1, 1"),
        ("wake", "--contexts=[0]", "--contexts must be 1 or more, got 0"),
        ("wake", "--passes=[]", "--passes must be one or more, got none"),
        ("wake", "--passes=[0]", "--passes must be 1 or more"),
        ("wake", "--tokens=1", "--tokens must be 2 or more, got 1"),
        ("wake", "--tokens=99999999999999999999", "--tokens must be at most 1048576, got 99999999999999999999"),
        ("wake", "--passes=[1,99999]", "--passes must be at most 10000, got 99999"),
        ("wake", "--window_size=0", "--window_size must be 1 or more, got 0"),
        ("wake", "--max_cache_gb=-1", "--max_cache_gb must be finite and 0 or more, got -1.0"),
        ("wake", "--seed=-1", "--seed must be 0 or more, got -1"),
        ("window", "--seed=-1", "--seed must be 0 or more, got -1"),
        ("window", "--passes=[1,99999]", "--passes must be at most 10000, got 99999"),
        ("window", "--length=0", "--length must be 1 or more, got 0"),
        ("window", "--windows=[4,4]", "--windows must differ, got 4, 4"),
        ("window", "--windows=[5]", "--windows must divide length=16, got 5"),
        ("window", "--windows=[]", "--windows must be one or more, got none"),
        ("window", "--passes=[0]", "--passes must be 1 or more"),
        ("window", "--batch_sizes=[0]", "--batch_sizes must be 1 or more, got 0"),
        ("window", "--repeats=0", "--repeats must be 1 or more, got 0"),
        *(
            (of, f"--device={name}", f"{DEVICE} '{name}'")
            for of in ("wake", "window")
            for name in ("cuda:99", "abacus")
        ),
        ("train", "--passes=[0]", "--passes must be 1 or more"),
        ("train", "--steps=0", "--steps must be 2 or more, got 0"),
        pytest.param(
            "train",
            "--variants=[graph]",
            "accelerate='graph' needs a CUDA device, got cpu; use 'compile' or 'none'",
            marks=HERE,
        ),
        pytest.param(
            "train",
            "--variants=[fla]",
            "gated_delta: backend 'fla' cannot run: no CUDA device; use 'torch', 'naive'",
            marks=HERE,
        ),
        pytest.param(
            "train", "--trainer.accelerator=gpu", "--trainer.accelerator must be one that is here, got gpu", marks=HERE
        ),
        ("scale", "--counts=[0]", "--counts must be 1 or more, got 0"),
        ("scale", "--counts=[2,2]", "--counts must differ, got 2, 2"),
        ("scale", "--passes=[]", "--passes must be one or more, got none"),
    ],
)
def test_bad_arguments_are_refused(command, argument, message, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {re.escape(message)}"):
        lmsleep(["bench", command, *OPTIONS[command], argument, f"--out={tmp_path / 'table'}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize(
    ("out", "rule"),
    [
        (".", "be a regular file"),
        ("none/table", "lie in a folder that exists"),
        pytest.param("/proc/table", "be one that can be written", marks=NEEDS_PROC),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    command, out, rule, tmp_path, monkeypatch
):
    monkeypatch.setattr(f"lmsleep.bench.{command}.{MEASURES[command]}", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match=f"^error: --out must {rule}, got '{tmp_path / out}'"):
        lmsleep(["bench", command, *OPTIONS[command], f"--out={tmp_path / out}"])


@pytest.mark.parametrize("command", OPTIONS)
def test_a_pipe_is_refused_before_anything_is_measured(command, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(f"lmsleep.bench.{command}.{MEASURES[command]}", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match=f"^error: --out must be a regular file, got '{tmp_path / 'pipe'}'"):
        lmsleep(["bench", command, *OPTIONS[command], f"--out={tmp_path / 'pipe'}"])
