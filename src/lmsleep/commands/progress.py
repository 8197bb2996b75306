"""The progress bar of a run."""

import sys
import time
from shutil import get_terminal_size
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf

WIDTH = 100
# Steps between updates on CUDA, where each reads the loss and so waits for the device, and into a file.
REFRESH_RATE = 20
SECONDS = 30  # between lines in a file


def redraws() -> bool:
    """Whether a line that was written can be drawn anew: on a terminal and in a notebook, not in a file."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


class Lines(Tqdm):
    """What stands for a bar in a file: a line every `SECONDS`, and one at the end of a bar that stays."""

    def __init__(self, **options: Any) -> None:
        self.said = time.monotonic()
        super().__init__(**options, delay=float("inf"))  # else tqdm draws at the start and at the end

    def display(self, *_: Any, **__: Any) -> None:
        if time.monotonic() - self.said >= SECONDS:
            self.say()

    def close(self) -> None:
        if not self.disable and self.leave:
            self.say()
        super().close()

    def say(self) -> None:
        """Writes how far it is."""
        self.said = time.monotonic()
        print(self, file=self.fp, flush=True)


class RunProgressBar(TQDMProgressBar):
    """Batches, elapsed and remaining time, loss and any exact answers in one line of at most 100 columns; in a file,
    where none can be drawn anew, now and then in a line of their own."""

    BAR_FORMAT = "{desc} {n_fmt}/{total_fmt} {bar} {elapsed}<{remaining}{postfix}"
    LINE_FORMAT = "{desc} {n_fmt}/{total_fmt} in {elapsed}, {remaining} left{postfix}"

    def __init__(self) -> None:
        self.redraws = redraws()
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else REFRESH_RATE)
        self.on_cuda = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.on_cuda = trainer.strategy.root_device.type == "cuda"

    @property
    def refresh_rate(self) -> int:
        """Batches from one update to the next."""
        return max(super().refresh_rate, REFRESH_RATE if self.on_cuda else 1)

    @property
    def total_train_batches(self) -> int | float:
        """The batches of the whole run."""
        steps = self.trainer.max_steps
        batches = self.trainer.num_training_batches
        return batches if steps < 0 else min(batches, steps * self.trainer.accumulate_grad_batches)

    @property
    def _done(self) -> int:
        """The batches before a resume, which took none of the time that is shown."""
        loop = self.trainer.fit_loop
        return loop.batch_idx + 1 if loop.epoch_loop.restarting else 0

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.initial = self.train_progress_bar.n = self._done

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:  # pyright: ignore
        """Draws a batch once, with its own loss beside its number."""
        bar, done = self.train_progress_bar, batch[-1] + 1
        if self.is_enabled and (done % self.refresh_rate == 0 or done == bar.total):
            bar.n = done
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:  # pyright: ignore
        """Reads metrics off the device, only when the bar is drawn."""
        metrics, shown = trainer.callback_metrics, {}
        for name in ("loss", "exact"):
            if (train := f"train/{name}") in metrics:
                val = f" (val {metrics[f'val/{name}']:.3g})" if f"val/{name}" in metrics else ""
                shown[name] = f"{metrics[train]:.3g}{val}"
        if (speed := "tokens_per_second") in metrics and (not self.redraws or get_terminal_size().columns >= WIDTH):
            shown["tokens/s"] = Tqdm.format_sizeof(float(metrics[speed]))
        return shown

    def init_sanity_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def init_train_tqdm(self) -> Tqdm:
        return self._bar("train", total=convert_inf(self.total_train_batches), initial=self._done)

    def init_validation_tqdm(self) -> Tqdm:
        return self._bar("validate", below=self.trainer.state.fn == "fit")

    def init_test_tqdm(self) -> Tqdm:
        return self._bar("test")

    def init_predict_tqdm(self) -> Tqdm:
        return self._bar("predict")

    def _bar(self, name: str, below: bool = False, **counts: Any) -> Tqdm:
        """A bar with a fixed name, without Lightning's numbers of epochs and loaders, no wider than the terminal and
        `WIDTH`; `below` another it is wiped away at its end. In a file it is `Lines`."""
        place = {"position": 2 * self.process_position + below, "leave": not below, "file": sys.stdout}
        look = {"ncols": min(WIDTH, get_terminal_size().columns), "bar_format": self.BAR_FORMAT}
        kind, look = (Tqdm, look) if self.redraws else (Lines, {"bar_format": self.LINE_FORMAT})
        bar = kind(desc=name, disable=self.is_disabled, smoothing=0, **look, **place, **counts)
        bar.set_description = lambda *_: None
        return bar
