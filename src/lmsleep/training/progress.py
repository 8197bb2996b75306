"""The progress of a run, in one line."""

from math import isfinite
from shutil import get_terminal_size
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

WIDTH = 100
REFRESH_RATE = 20  # steps between two looks on CUDA: each reads the loss, and so waits for the device
SHOWN = {
    "train/loss": "loss",
    "train/exact": "exact",
    "val/loss": "val loss",
    "val/exact": "val exact",
    "tokens_per_second": "tokens/s",
}


class Progress(TQDMProgressBar):
    """Batches of all batches, the time they took and will take, loss and exact answers; at most 100 columns."""

    BAR_FORMAT = "{desc} {n_fmt}/{total_fmt} {bar} {elapsed}<{remaining}{postfix}"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # pyright: ignore
        if pl_module.device.type == "cuda":
            self._refresh_rate = max(self.refresh_rate, REFRESH_RATE)
        super().on_train_start()

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """The data have no epochs that Lightning knows of: the line goes on without their number."""
        self.train_progress_bar.reset(self.total_train_batches if isfinite(self.total_train_batches) else None)

    @property
    def train_description(self) -> str:
        return "training"

    @property
    def total_train_batches(self) -> int | float:
        """Those of the whole run."""
        steps = self.trainer.max_steps
        batches = self.trainer.num_training_batches
        return batches if steps < 0 else min(batches, steps * self.trainer.accumulate_grad_batches)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:  # pyright: ignore
        """Read off the device only when the line is drawn."""
        found = trainer.callback_metrics
        return {short: f"{found[name]:.4g}" for name, short in SHOWN.items() if name in found}

    def init_sanity_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def init_train_tqdm(self) -> Tqdm:
        return narrowed(super().init_train_tqdm())

    def init_validation_tqdm(self) -> Tqdm:
        return narrowed(super().init_validation_tqdm())

    def init_test_tqdm(self) -> Tqdm:
        return narrowed(super().init_test_tqdm())


def narrowed(bar: Tqdm) -> Tqdm:
    """The same bar, no wider than the terminal and `WIDTH`."""
    bar.dynamic_ncols, bar.ncols = None, min(WIDTH, get_terminal_size().columns)
    return bar
