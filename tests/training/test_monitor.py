"""A metric that is monitored and never logged is refused before the first step."""

from dataclasses import dataclass

import lightning as L
import pytest
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lmsleep.tasks import Rule110
from lmsleep.training import RunReport
from lmsleep.training.monitor import SCORED

from .conftest import TASK, Recorder, fitted


@dataclass(frozen=True)
class Text(Rule110):
    """Stands for free text, which has no answers."""

    has_answers = False


TEXT = Text(steps=2, width=6, n_states=2)
VALIDATED = {"val_check_interval": 2, "enable_checkpointing": True, "log_every_n_steps": 1}


def keepers(name, folder):
    return [ModelCheckpoint(str(folder), monitor=name), EarlyStopping(name)]


@pytest.mark.parametrize("task", [TASK, TEXT], ids=["answers", "text"])
def test_all_that_a_run_logs_of_scores_can_be_monitored_and_no_other_score(run, tmp_path, task):
    cell = fitted(run(2, [RunReport()], task=task, **VALIDATED))
    logged = {name for name in cell.trainer.callback_metrics if name.startswith(("val/", "train/"))}
    others = {f"{part}/{score}" for part in ("val", "test") for score in SCORED} - logged
    for name in logged:
        check(run(2, keepers(name, tmp_path), task=task, **VALIDATED))
    for name in others | {"val/exact-9", "val/los", "val_loss", "loss"}:
        for keeper in keepers(name, tmp_path):
            with pytest.raises(
                ValueError, match=rf"^monitor of {type(keeper).__name__} must be one of train/loss, val/"
            ):
                check(run(2, [keeper], task=task, **VALIDATED))


def check(cell):
    """Begins a run and stops before its first step."""
    cell.trainer.limit_train_batches = 0
    cell.trainer.fit(cell.module, cell.data)


@pytest.mark.parametrize("keeper", [0, 1], ids=["checkpoint", "early stopping"])
def test_exact_answers_of_free_text_are_refused_before_the_first_step(run, tmp_path, keeper):
    """The sentence says what can be monitored."""
    seen = Recorder()
    cell = run(2, [keepers("val/exact", tmp_path)[keeper], seen], task=TEXT, **VALIDATED)
    names = "val/loss, val/token, val/rows, val/perplexity"
    with pytest.raises(
        ValueError, match=rf"train/loss, {names}, .*, got 'val/exact'; rows of free text have no answers"
    ):
        fitted(cell)
    assert not seen.tokens


def test_what_may_be_logged_elsewhere_is_not_refused(run, tmp_path):
    class Logs(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("val/own", 1.0)

    for more, name in ((Logs(), "val/own"), (RunReport(), "grad_norm"), (LearningRateMonitor(), "lr-MuonAdamW/pg1")):
        logger = CSVLogger(tmp_path) if isinstance(more, LearningRateMonitor) else False
        fitted(run(2, [more, *keepers(name, tmp_path)], **VALIDATED, logger=logger))
    patient = EarlyStopping("val/nothing", strict=False)
    fitted(run(2, [patient], **VALIDATED))
