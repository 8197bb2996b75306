"""What a run says at its start, and as it goes on."""

import logging
from types import SimpleNamespace

import lightning as L
import pytest

from lmsleep import SleepCallback
from lmsleep.tensors import threads
from lmsleep.training import RunReport

from .conftest import fitted


def test_a_run_begins_with_a_summary_and_shows_its_speed(run, caplog):
    with caplog.at_level(logging.INFO):
        cell = fitted(run(3, [RunReport()], log_every_n_steps=2, accumulate_grad_batches=2, max_steps=3))
    text = "\n".join(caplog.messages)
    for words in (
        "Rule110(steps=2, width=6, n_states=2)",
        f"{sum(p.numel() for p in cell.module.parameters()):,} parameters",
        "3 windows of up to 6 tokens; 3 passes (hard eviction)",
        f"{8 * 14 * 2} tokens a step, 3 steps; seed 0",
        f"backends: torch for every op on {threads()}",
    ):
        assert words in text
    assert cell.trainer.callback_metrics["tokens_per_second"] > 0


def test_one_step_is_told_in_the_singular(run, caplog):
    with caplog.at_level(logging.INFO):
        fitted(run(1, [RunReport()], max_steps=1))
    assert " tokens a step, 1 step; seed 0" in "\n".join(caplog.messages)


def test_a_model_without_fast_weights_has_no_change_of_S_to_log():
    sleeper = SleepCallback(2)
    sleeper.change = [[]]  # one pass, no layer
    RunReport().on_validation_epoch_end(SimpleNamespace(callbacks=[sleeper]), L.LightningModule())


EPOCHS = {"max_steps": -1, "max_epochs": 2, "limit_train_batches": 3, "check_val_every_n_epoch": 1}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"max_steps": 2}, {"max_steps": 1200}, "goes on at step 2 of 1,200"),
        (EPOCHS | {"val_check_interval": None}, {**EPOCHS, "max_epochs": 3, "val_check_interval": 3}, "at step 6 of 9"),
        ({"max_steps": 2}, {"max_steps": 2}, "nothing is left to train at step 2 of 2"),
    ],
)
def test_a_run_that_goes_on_says_once_from_where(run, tmp_path, caplog, first, second, said):
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 9

    fitted(run(1, [RunReport()], **first)).trainer.save_checkpoint(tmp_path / "a.ckpt")
    with caplog.at_level(logging.INFO):
        cell = run(1, [RunReport(), Stop()], **second)
        caplog.clear()
        cell.trainer.fit(cell.module, cell.data, ckpt_path=tmp_path / "a.ckpt")
    text = "\n".join(caplog.messages)
    assert text.count(said) == 1 and text.count(" of ".join(said.split(" of ")[-2:])) == 1
    assert "-1 steps" not in text


def test_a_run_that_begins_does_not_say_that_it_goes_on(run, caplog):
    with caplog.at_level(logging.INFO):
        fitted(run(1, [RunReport()], **EPOCHS, val_check_interval=None))
    text = "\n".join(caplog.messages)
    assert "at step" not in text and f"{8 * 14} tokens a step, 6 steps; seed 0" in text


def test_the_summary_names_the_ops_of_each_backend(run, caplog, monkeypatch):
    chosen = {"ssd": "torch", "swiglu": "triton", "add_norm": "triton"}
    choices = {op: SimpleNamespace(backend=backend) for op, backend in chosen.items()}
    monkeypatch.setattr("lmsleep.training.report.describe", lambda device: choices)
    with caplog.at_level(logging.INFO):
        fitted(run(1, [RunReport()]))
    assert "backends: torch for ssd; triton for swiglu, add_norm" in "\n".join(caplog.messages)


def test_the_summary_says_one_pass(run, caplog):
    with caplog.at_level(logging.INFO):
        fitted(run(1, [RunReport()]))
    assert "; 1 pass (hard eviction)" in "\n".join(caplog.messages)
