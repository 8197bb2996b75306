"""A cell that is stopped on its way and run again ends as one that never was."""

import json
import signal
from pathlib import Path

import pytest
import torch
from tests.programs import start

ROOT = Path(__file__).parents[2]
OPTIONS = ["--config=configs/experiment/smoke/rule110.yaml", "--trainer.max_steps=43", "--data.eval_rows=32"]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(equal, a, b)) if isinstance(a, (list, tuple)) else a == b


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """train(name, n_passes, mark, kill): exit code of the stage and its folder."""
    place = tmp_path_factory.mktemp("cells")
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "src").symlink_to(ROOT / "src")

    def train(name, n_passes, mark, kill=False):
        end = [
            "--trainer.callbacks+=killing.EndOnce",
            "--trainer.callbacks.step=15",
            f"--trainer.callbacks.mark={mark}",
        ]
        end.append(f"--trainer.callbacks.kill={kill}")
        more = ["--data.seed=3", "--seed_everything=3", f"--sleep.n_passes={n_passes}"]
        run = start("lmsleep.figures.train", name, *OPTIONS, *more, *end, folder=place)
        run.join()
        return run.exitcode, place / name

    return train


@pytest.fixture(scope="module", params=[1, 2])
def whole(request, train, tmp_path_factory):
    """N, and the folder of a run that nothing stopped."""
    mark = tmp_path_factory.mktemp("mark") / "mark"
    mark.touch()
    code, folder = train(f"runs/whole-n{request.param}", request.param, mark)
    assert code == 0
    return request.param, folder


@pytest.mark.parametrize(
    ("kill", "stopped"), [(False, 128 + signal.SIGTERM), (True, -signal.SIGKILL)], ids=["TERM", "KILL"]
)
def test_a_stopped_run_that_is_run_again_is_one_in_one_go_bit_for_bit(whole, train, tmp_path, kill, stopped):
    n_passes, uncut = whole
    name = f"runs/{'killed' if kill else 'stopped'}-n{n_passes}"
    code, folder = train(name, n_passes, tmp_path / "mark", kill)
    assert code == stopped and not folder.exists()
    states = [torch.load(path, weights_only=True) for path in folder.parent.glob(".resume/*/last.ckpt")]
    assert [10 <= state["global_step"] < 43 for state in states] == [True]
    code, folder = train(name, n_passes, tmp_path / "mark", kill)
    assert (tmp_path / "mark").read_text() == f"{states[0]['global_step']}"
    assert code == 0 and not list(folder.parent.glob(".resume/*"))
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "curve.csv", "last.ckpt", "run.json"}
    ends = [torch.load(place / "last.ckpt", weights_only=True) for place in (uncut, folder)]
    assert ends[0]["global_step"] == 43
    for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "sleep", "model_config"):
        assert equal(ends[0][key], ends[1][key]), key
    assert (folder / "curve.csv").read_text() == (uncut / "curve.csv").read_text()
    assert (folder / "curve.csv").read_text().count("\n") == 5
    assert json.loads((folder / "run.json").read_text())["tokens"] == 43 * 8 * 26  # the last validation was at 40
