"""One line of progress that counts all batches of a run."""

import re
from pathlib import Path

import pytest
import torch

from lmsleep.commands import progress
from lmsleep.commands.fit import run_trainer
from lmsleep.commands.progress import WIDTH, RunProgressBar
from lmsleep.training import RunReport

TINY = {
    "data.task": '{"class_path": "lmsleep.tasks.Rule110", "init_args": {"steps": 2, "width": 6, "n_states": 2}}',
    "model.model.d_model": 16,
    "data.batch_size": 8,
    "data.eval_rows": 16,
    "trainer.accelerator": "cpu",
    "trainer.logger": "false",
    "trainer.check_val_every_n_epoch": "null",
}
pytestmark = pytest.mark.usefixtures("empty_folder")


def fit(ckpt_path=None, **trainer):
    """A run of `lmsleep fit` with other settings of its trainer."""
    given = TINY | {f"trainer.{name}": value for name, value in trainer.items()}
    given |= {} if ckpt_path is None else {"ckpt_path": ckpt_path, "checkpoint.dirpath": f"from-{ckpt_path.name}"}
    return run_trainer(["fit", *(f"--{name}={value}" for name, value in given.items())])


def test_the_line_fits_and_says_batches_loss_and_answers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(progress, "redraws", lambda: True)
    fit(accumulate_grad_batches=2, max_steps=3, val_check_interval=2)
    out = capsys.readouterr().out
    lines = [line for line in re.split(r"[\r\n]", out) if line.startswith("train ")]
    score = r"[\d.]+ \(val [\d.]+\)"
    assert re.match(rf"train 6/6 .*<00:00, loss={score}, exact={score}", lines[-1])
    assert all("loss=" in line for line in lines if not line.startswith("train 0/6"))
    assert max(map(len, lines)) <= WIDTH and not re.search("v_num|Epoch|DataLoader", out)


@pytest.mark.parametrize(("seconds", "batches"), [(0, [2, 4, 6]), (1e9, [6])])
def test_in_a_file_it_is_a_plain_line_now_and_then_and_one_at_the_end(capsys, monkeypatch, seconds, batches):
    monkeypatch.setattr(progress, "SECONDS", seconds)
    monkeypatch.setattr(RunProgressBar, "refresh_rate", 2)
    trainer = fit(max_steps=6, val_check_interval=6).trainer
    trainer.test(trainer.lightning_module, trainer.datamodule, verbose=False)
    out = capsys.readouterr().out
    assert not re.search(r"[\r\x1b]", out)
    lines = re.findall(r"^train (\d+)/6 in 00:\d\d, [\d:?]+ left(?:, loss=.*)?$", out, flags=re.M)
    assert sorted({int(n) for n in lines} - {0}) == batches and len(lines) >= len(batches)
    assert out.rstrip().splitlines()[-1].startswith("test 2/2 in 00:0")
    assert ("validate" in out) == (seconds == 0)


@pytest.mark.parametrize(("before", "interval"), [(4, 2), (3, 2), (4, 4)])
def test_a_run_that_goes_on_counts_all_batches_and_times_its_own(capsys, monkeypatch, before, interval):
    """From a run that had ended, and from one that was stopped, with its epoch open."""
    bars = []
    finished = RunProgressBar.on_train_batch_end

    def look(self, *args):
        finished(self, *args)
        bar = self.train_progress_bar
        bars.append((bar.initial, bar.n, bar.total))

    settings = {"accumulate_grad_batches": 2, "val_check_interval": interval}
    fit(**settings, max_steps=before, default_root_dir="run")
    monkeypatch.setattr(RunProgressBar, "on_train_batch_end", look)
    monkeypatch.setattr(RunProgressBar, "refresh_rate", 1)
    capsys.readouterr()
    for path in sorted(Path().rglob("*.ckpt")):
        bars.clear()
        done = 2 * torch.load(path, weights_only=True)["global_step"]
        fit(**settings, max_steps=6, default_root_dir="run", ckpt_path=path)
        assert bars == [(done, n, 12) for n in range(done + 1, 13)]
    assert "/?" not in "".join(line for line in capsys.readouterr().out.splitlines() if "train" in line)


def test_the_line_is_drawn_below_the_report():
    kinds = [*map(type, fit(max_steps=1, limit_val_batches=0).trainer.callbacks)]
    assert kinds.index(RunReport) < kinds.index(RunProgressBar)
