"""Times the batches and validations of a run."""

import statistics
import time
from itertools import pairwise
from typing import Any

import lightning as L
import torch
from lightning.pytorch import Callback


class StepTimer(Callback):
    """Records when batches and validations end.

    Attributes:
        started: when training began, in seconds. first: seconds of the first batch, with compilation and capture.
        validations: start and end, in seconds, of each validation and the checkpoint after it.
    """

    def __init__(self) -> None:
        self.started, self.first = time.perf_counter(), 0.0
        self.validations: list[list[float]] = []
        self._marks: list[list[Any]] = [[]]  # one list up to each validation

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        if not self.first:
            self.first = self._now(pl_module) - self.started
        # On CUDA several steps are in flight: their ends are measured on the device.
        mark = torch.cuda.Event(enable_timing=True) if pl_module.device.type == "cuda" else time.perf_counter()
        if isinstance(mark, torch.cuda.Event):
            mark.record()
        self._marks[-1].append(mark)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validations.append([self._now(pl_module)])
        self._marks.append([])

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        if self.validations and len(self.validations[-1]) == 1:
            self.validations[-1].append(self._now(pl_module))

    on_train_end = on_train_batch_start

    def _now(self, module: L.LightningModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def batches(self) -> list[float]:
        """Seconds of each batch after the first validation; without a validation, of the second half."""
        marks = [mark for marks in self._marks[1:] for mark in marks]
        marks = marks or self._marks[0][len(self._marks[0]) // 2 :]
        if marks and isinstance(marks[0], torch.cuda.Event):
            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]
        return [b - a for a, b in pairwise(marks)]

    @property
    def validation(self) -> float:
        """Seconds of the last validation; 0 without one."""
        return self.validations[-1][1] - self.validations[-1][0] if self.validations else 0.0

    def estimate(self, batches: int, validations: int) -> float:
        """Estimated seconds of a run of `batches` and `validations`: up to the first timed batch as measured, the rest
        at the mean pace."""
        start, done = self.first, 1
        if self.validations:
            start, done = self.validations[0][1] - self.started, len(self._marks[0])
            validations -= 1
        return start + max(0, batches - done) * statistics.fmean(self.batches()) + validations * self.validation
