"""One line of progress that counts all batches of a run."""

import re

from lmsleep.training import RunReport
from lmsleep.training.fit import run_trainer
from lmsleep.training.progress import WIDTH, RunProgressBar


def test_the_line_fits_and_says_batches_loss_and_answers(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    bar = {"enable_progress_bar": True, "accumulate_grad_batches": 2, "max_steps": 3, "val_check_interval": 2}
    made = run(2, callbacks=[RunProgressBar()], **bar)
    made.trainer.fit(made.module, made.data)
    out = capsys.readouterr().out
    lines = [line for line in re.split(r"[\r\n]", out) if line.startswith("train ")]
    score = r"[\d.]+ \(val [\d.]+\)"
    assert re.match(rf"train 6/6 .*<00:00, loss={score}, exact={score}", lines[-1])
    assert not any(line.startswith(f"train {n}/6") for line in lines for n in range(1, 6))  # a file is no terminal
    assert max(map(len, lines)) <= WIDTH and not re.search("v_num|Epoch|DataLoader", out)


def test_the_line_is_drawn_below_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"data.task": "lmsleep.tasks.Rule110", "model.model.d_model": 8, "data.batch_size": 2}
    for name, value in (("accelerator", "cpu"), ("max_steps", 1), ("limit_val_batches", 0), ("logger", "false")):
        given[f"trainer.{name}"] = value
    cli = run_trainer(["fit", *(f"--{name}={value}" for name, value in given.items())])
    kinds = [*map(type, cli.trainer.callbacks)]
    assert kinds.index(RunReport) < kinds.index(RunProgressBar)


def test_a_logger_s_number_is_left_out(run):
    made = run(1, callbacks=[RunProgressBar()], enable_progress_bar=True, logger=True)
    made.trainer.fit(made.module, made.data)
    assert "v_num" not in made.trainer.progress_bar_callback.get_metrics(made.trainer, made.module)
