"""A run that was stopped and taken up again reads, learns and reports what a run in one go does."""

import os
import signal
from contextlib import suppress
from dataclasses import replace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lmsleep import HybridConfig, SleepModule
from lmsleep.model import Lora
from lmsleep.training import DrawPasses, LastCheckpoint, LearningCurve, RunReport

from .conftest import TASK, Recorder, fitted, weights


class TerminateAt(L.Callback):
    """Sends SIGTERM to the process while it trains on a batch, counted from 0."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


class Numbers(Logger):
    """Keeps the value of each metric under the number with which it was logged last, but of those of a clock."""

    name, version = "numbers", 0

    def __init__(self):
        super().__init__()
        self.logged = {}

    def log_hyperparams(self, *_, **__):
        pass

    def log_metrics(self, metrics, step=None):
        for name in metrics.keys() - {"epoch", "tokens_per_second", "sleeps_per_row"}:
            self.logged[step, name] = metrics[name]


EPOCHS = {"val_check_interval": None, "check_val_every_n_epoch": 1, "max_epochs": 3, "max_steps": -1}
SETTINGS = {
    "epochs whose last step has one batch": {"limit_train_batches": 3, "accumulate_grad_batches": 2, **EPOCHS},
    "epochs until a step": {"limit_train_batches": 3, "accumulate_grad_batches": 2, **EPOCHS, "max_steps": 6},
    "validation within a step": {"accumulate_grad_batches": 3, "val_check_interval": 2, "max_steps": 3},
    "several validations within a step": {"accumulate_grad_batches": 4, "val_check_interval": 1, "max_steps": 2},
    "float64": {"precision": "64-true", "val_check_interval": 4, "max_steps": 6},
    "bfloat16": {"precision": "bf16-true", "val_check_interval": 4, "max_steps": 6},
}
STOPS = {1: 0, 2: 2, 3: 0, 5: 2}  # within this batch -> processes that load
# What else can differ, the others differ in.
FEW = {"epochs whose last step has one batch": (1, 2), "epochs until a step": (3, 5)}
FEW |= {"several validations within a step": (1, 5), "float64": (3,), "bfloat16": (3,)}
CASES = [(name, stop) for name in SETTINGS for stop in FEW.get(name, STOPS)]


@pytest.fixture(scope="module")
def uncut():
    """Setting -> what its run in one go, without workers, came to, once a test has made it."""
    return {}


@pytest.mark.parametrize(("name", "stop"), CASES)
def test_a_resumed_run_is_the_run_itself(run, uncut, tmp_path, name, stop):
    setting, workers = SETTINGS[name], STOPS[stop]

    def part(*callbacks, folder="resumed", workers=workers, ckpt_path=None):
        curve, seen, logger = LearningCurve(str(tmp_path / folder / "curve.csv")), Recorder(), Numbers()
        callbacks = [*callbacks, curve, seen, RunReport(), LastCheckpoint(str(tmp_path / folder))]
        options = {"data_options": {"num_workers": workers, "eval_rows": 8}, "enable_checkpointing": True}
        options |= {"logger": logger, "log_every_n_steps": 1}
        cell = run(2, callbacks, **options, **setting)
        try:
            cell.trainer.fit(cell.module, cell.data, ckpt_path=ckpt_path)
        except SIGTERMException:
            assert ckpt_path is None
        return cell, seen, curve.rows, logger.logged

    if name not in uncut:
        uncut[name] = part(folder="whole", workers=0)
    whole, everything, curve, numbers = uncut[name]
    n = len(everything.tokens)
    for i, tokens in enumerate(everything.tokens):
        assert torch.equal(tokens, TASK.rows(split="train", seed=0, step=i, batch_size=8).tokens)
    _, before, _, numbers_before = part(TerminateAt(stop))
    saved = tmp_path / "resumed" / "last.ckpt"  # none is there where no step was complete
    resumed, after, rows, numbers_after = part(ckpt_path=saved if saved.exists() else None)
    assert len(before.losses) == stop + 1 < n
    again = len(before.losses) + len(after.losses) - n
    assert 0 <= again < setting.get("accumulate_grad_batches", 1)
    assert before.losses == everything.losses[: stop + 1] and after.losses == everything.losses[stop + 1 - again :]
    assert resumed.trainer.global_step == whole.trainer.global_step
    assert all(map(torch.equal, weights(resumed.module), weights(whole.module)))
    assert rows == curve and numbers_before | numbers_after == numbers


class BreakOff(L.Callback):
    """Ends a run at its fourth step: by SIGTERM within the validation, or as a kill would, within it or after it."""

    def __init__(self, how):
        self.how = how

    def on_validation_batch_end(self, trainer, *_):
        if trainer.global_step == 4 and self.how == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        if trainer.global_step == 4 and self.how == "kill":
            raise KeyboardInterrupt

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 5 and self.how == "later":
            raise KeyboardInterrupt


OF_TWO_STEPS = {
    "batches": {"val_check_interval": 2},
    "batches of half a step": {"val_check_interval": 4, "accumulate_grad_batches": 2},
    "epochs": {"val_check_interval": None, "check_val_every_n_epoch": 1, "limit_train_batches": 2, "max_epochs": -1},
}


@pytest.mark.parametrize(
    ("how", "interval"),
    [
        *((how, "batches") for how in ("SIGTERM", "kill", "later", "end")),
        *(("SIGTERM", "batches of half a step"), ("SIGTERM", "epochs"), ("later", "epochs")),
    ],
)
def test_a_checkpoint_of_a_step_makes_up_for_the_validation_behind_it(run, tmp_path, how, interval):
    """Saved every two steps, before the validation of the second."""

    def curve_of(folder, *more, max_steps=6, ckpt_path=None):
        curve = LearningCurve(str(tmp_path / folder / "curve.csv"))
        callbacks = [*more, curve, LastCheckpoint(str(tmp_path / folder), every_n_train_steps=2)]
        cell = run(2, callbacks, enable_checkpointing=True, max_steps=max_steps, **OF_TWO_STEPS[interval])
        with suppress(SIGTERMException, SystemExit):
            cell.trainer.fit(cell.module, cell.data, ckpt_path=ckpt_path)
        return curve.rows

    whole = curve_of("whole")
    curve_of("broken", BreakOff(how), max_steps=4 if how == "end" else 6)
    assert curve_of("broken", ckpt_path=tmp_path / "broken" / "last.ckpt") == whole
    assert [row["step"] for row in whole] == [2, 4, 6]


LONGER = {
    "validated at its end": {"val_check_interval": 4},
    "saved at its end": {"val_check_interval": 3},
    "validated at its end, then nowhere": ({"val_check_interval": 4}, {"val_check_interval": 100}),
    "steps of two batches": {"val_check_interval": 3, "accumulate_grad_batches": 2},
    "epochs": {"limit_train_batches": 2, "check_val_every_n_epoch": 1, "val_check_interval": None},
}


@pytest.mark.parametrize("name", LONGER)
def test_a_run_that_had_ended_goes_on_for_longer_as_one_that_never_did(run, tmp_path, name):
    """The rates of both schedules are equal up to step 4, at which the shorter one ends. Metrics have the numbers of
    the unbroken run."""
    first, second = LONGER[name] if isinstance(LONGER[name], tuple) else (LONGER[name], LONGER[name])

    def part(folder, max_steps, ckpt_path=None, **options):
        logger, seen = Numbers(), Recorder()
        callbacks = [seen, LastCheckpoint(str(tmp_path / folder)), RunReport()]
        options |= {"enable_checkpointing": True, "logger": logger, "log_every_n_steps": 1, "max_steps": max_steps}
        cell = run(2, callbacks, data_options={"eval_rows": 8}, **options)
        cell.trainer.fit(cell.module, cell.data, ckpt_path=ckpt_path)
        return cell.module, seen, logger.logged

    whole, everything, numbers = part("whole", 8, **second)
    _, before, numbers_before = part("parts", 4, **first)
    resumed, after, numbers_after = part("parts", 8, tmp_path / "parts/last.ckpt", **second)
    assert before.losses + after.losses == everything.losses
    assert all(map(torch.equal, weights(resumed), weights(whole)))
    assert numbers.items() <= (numbers_before | numbers_after).items()  # which may have validations of its own
    assert len({step for step, name in numbers if name == "train/loss"}) == 8


def test_the_rates_of_a_longer_run_are_those_of_its_own_schedule(run, tmp_path):
    """Also where the shorter one had decayed on the way."""
    rates = []

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append([group["lr"] for group in optimizer.param_groups])

    def fit(max_steps, ckpt_path=None):
        cell = run(2, [Watch(), LastCheckpoint(str(tmp_path))], max_steps=max_steps, enable_checkpointing=True)
        cell.module.optimizer_config = replace(cell.module.optimizer_config, decay_fraction=0.5)
        cell.trainer.fit(cell.module, cell.data, ckpt_path=ckpt_path)
        return cell.module.optimizer_config

    fit(6)
    config = fit(12, tmp_path / "last.ckpt")
    factors = [config.schedule(6)(step) for step in range(6)] + [config.schedule(12)(step) for step in range(6, 12)]
    assert rates == [[config.muon_lr * factor, config.adamw_lr * factor] for factor in factors]


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["whole", "adapters"])
def test_no_training_step_draws_random_numbers_of_torch(run, lora):
    """Or a resumed run would draw others: their state is in no checkpoint."""
    states = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            states.append(torch.get_rng_state())

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            states.append(torch.get_rng_state())

    config = HybridConfig(d_model=16, pattern="AGJMW", n_heads=2, sliding_window=4)
    cell = run(2, [Watch(), DrawPasses()], max_steps=3)
    module = SleepModule(TASK, config, cell.module.optimizer_config, checkpointing=True, lora=lora)
    cell.trainer.fit(module, cell.data)
    assert len(states) == 6 and all(torch.equal(state, states[0]) for state in states)


def test_a_checkpoint_with_random_numbers_as_older_ones_have_it_goes_on(run, tmp_path):
    saver = LastCheckpoint(str(tmp_path), every_n_train_steps=3)
    whole = fitted(run(2, [saver], enable_checkpointing=True))
    content = torch.load(tmp_path / "previous.ckpt", weights_only=True)
    assert content["global_step"] == 3
    content["callbacks"]["RandomState"] = {"states": {"cpu": torch.get_rng_state()}}
    torch.save(content, tmp_path / "old.ckpt")
    resumed = run()
    resumed.trainer.fit(resumed.module, resumed.data, ckpt_path=tmp_path / "old.ckpt")
    assert all(map(torch.equal, weights(resumed.module), weights(whole.module)))


@pytest.mark.parametrize("workers", [0, 1])
def test_overfitting_reads_the_same_rows_in_every_epoch(run, workers):
    seen = Recorder()
    fitted(run(2, [seen], overfit_batches=2, data_options={"num_workers": workers}))
    wanted = [TASK.rows(split="train", seed=0, step=i % 2, batch_size=8).tokens for i in range(6)]
    assert len(seen.tokens) == 6 and all(map(torch.equal, seen.tokens, wanted))
