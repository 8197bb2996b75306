"""A cell that is stopped on its way and run again ends as one that never was."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.programs import start

ROOT = Path(__file__).parents[2]
OPTIONS = ["--config=configs/experiment/smoke/rule110.yaml", "--trainer.max_steps=23", "--data.eval_rows=32"]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(equal, a, b)) if isinstance(a, (list, tuple)) else a == b


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """train(name, mark, kill): exit code of the stage and its folder."""
    place = tmp_path_factory.mktemp("cells")
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "src").symlink_to(ROOT / "src")

    def train(name, mark, kill=False):
        end = [
            "--trainer.callbacks+=killing.EndOnce",
            "--trainer.callbacks.step=15",
            f"--trainer.callbacks.mark={mark}",
        ]
        end.append(f"--trainer.callbacks.kill={kill}")
        more = ["--data.seed=3", "--seed_everything=3", "--sleep.n_passes=2"]
        run = start("lmsleep.figures.train", name, *OPTIONS, *more, *end, folder=place)
        run.join()
        return run.exitcode, place / name

    return train


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    mark = tmp_path_factory.mktemp("mark") / "mark"
    mark.touch()
    code, folder = train("runs/whole", mark)
    assert code == 0
    return folder


@pytest.mark.parametrize(
    ("kill", "stopped"), [(False, 128 + signal.SIGTERM), (True, -signal.SIGKILL)], ids=["TERM", "KILL"]
)
def test_a_stopped_run_that_is_run_again_is_one_in_one_go_bit_for_bit(whole, train, tmp_path, kill, stopped):
    name = f"runs/{'killed' if kill else 'stopped'}"
    code, folder = train(name, tmp_path / "mark", kill)
    assert code == stopped and not folder.exists()
    states = [torch.load(path, weights_only=True) for path in folder.parent.glob(".resume/*/last.ckpt")]
    assert [10 <= state["global_step"] < 23 for state in states] == [True]
    code, folder = train(name, tmp_path / "mark", kill)
    assert (tmp_path / "mark").read_text() == f"{states[0]['global_step']}"
    assert code == 0 and not list(folder.parent.glob(".resume/*"))
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "curve.csv", "last.ckpt", "run.json"}
    ends = [torch.load(place / "last.ckpt", weights_only=True) for place in (whole, folder)]
    assert ends[0]["global_step"] == 23
    for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "sleep", "model_config"):
        assert equal(ends[0][key], ends[1][key]), key
    assert (folder / "curve.csv").read_text() == (whole / "curve.csv").read_text()
    assert (folder / "curve.csv").read_text().count("\n") == 3
    assert json.loads((folder / "run.json").read_text())["tokens"] == 23 * 8 * 26  # the last validation was at 20


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    options = [*OPTIONS, "--data.seed=3", "--seed_everything=3", "--sleep.n_passes=2", "--trainer.precision=64-true"]
    options.append("--data.eval_batch_size=16")
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    ends = {}
    for name, more in (("one", []), ("two", two)):
        command = [sys.executable, "-m", "lmsleep.figures.train", f"runs/{name}", *options, *more]
        subprocess.run(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
        ends[name] = tmp_path / "runs" / name
    assert not list(tmp_path.glob("runs/.resume/*"))
    for folder in ends.values():
        assert {path.name for path in folder.iterdir()} == {"config.yaml", "curve.csv", "last.ckpt", "run.json"}
        assert json.loads((folder / "run.json").read_text())["tokens"] == 23 * 8 * 26
    one, two = (pd.read_csv(folder / "curve.csv") for folder in ends.values())
    pd.testing.assert_frame_equal(one, two, rtol=1e-9)
