"""The checkpoint that a run can be resumed from."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException


class LastCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint, `last.ckpt`: of the latest validation, of the end, or of the batch at which SIGTERM stopped
    the run. Lightning writes it beside the old one and then exchanges the two.

    Args:
        dirpath: its folder; None: that of the logger, or the trainer's `default_root_dir`.
        every_n_train_steps: saves every so many steps instead of after validations.
    """

    def __init__(self, dirpath: str | None = None, every_n_train_steps: int | None = None) -> None:
        super().__init__(
            dirpath,
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_exception=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.within_validation = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what was trained since the last validation."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Saves on SIGTERM, which Lightning raises between two batches; another exception may come within an update."""
        if isinstance(exception, SIGTERMException):
            self.within_validation = trainer.validating
            super().on_exception(trainer, pl_module, exception)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lets a resumed run repeat a validation that was cut short, which it would take for complete."""
        if self.within_validation:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                counts |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
