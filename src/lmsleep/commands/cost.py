"""What a training step costs: its work, from shapes, and its time, by a clock."""

import statistics
import time
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import lightning as L
import torch

from lmsleep.model import HybridConfig
from lmsleep.tasks import Batch
from lmsleep.windows import SleepSettings, Windows


@dataclass(frozen=True)
class StepWork:
    """The work of a training step, from shapes alone.

    Args:
        config: with vocab_size and window_size set.
        batch: an example, of whose rows and windows with loss the counts are taken.
        sleeps: N, and which windows sleep.
        accumulate: batches of a step.
    """

    config: HybridConfig
    batch: Batch
    sleeps: SleepSettings
    accumulate: int = 1

    @property
    def windows(self) -> Windows:
        """The windows of a row."""
        return Windows.of(self.batch.targets, self.config.window_size or 1, self.sleeps.after_loss)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.accumulate * self.batch.tokens.numel()

    @property
    def token_passes(self) -> int:
        """Tokens of a step, each counted once for every pass over it."""
        per_row = self.windows.token_passes(self.sleeps.n_passes, self.sleeps.wake_passes)
        return self.accumulate * len(self.batch.tokens) * per_row

    @property
    def flops(self) -> int:
        """FLOPs of a step: matrix products forward, and twice as many backward. A last window that is not full counts
        as if it were."""
        windows, head = self.windows, 2 * self.config.d_model * (self.config.vocab_size or 0)
        passes = (1, self.sleeps.wake_passes, self.sleeps.n_passes)
        once, awake, often = (self.config.flops_per_token(n) for n in passes)
        asleep = windows.n_sleeps * windows.size
        scored = sum(min(span.stop, windows.length) - span.start for span, loss, _ in windows if loss)
        per_row = windows.length * (awake - head) + asleep * (often - once) + scored * head
        return 3 * self.accumulate * len(self.batch.tokens) * per_row


class StepTimer(L.Callback):
    """Times the batches and validations of a run.

    Attributes:
        started: when training began, in seconds. first: seconds of the first batch, with compilation and capture.
        validations: start and end, in seconds, of each validation and the checkpoint after it.
    """

    def __init__(self) -> None:
        self.started, self.first = time.perf_counter(), 0.0
        self.validations: list[list[float]] = []
        self._ends: list[list[Any]] = [[]]  # of batches: one list up to each validation

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        if not self.first:
            self.first = _now(pl_module) - self.started
        # On CUDA several steps are in flight: their ends are measured on the device.
        end = torch.cuda.Event(enable_timing=True) if pl_module.device.type == "cuda" else time.perf_counter()
        if isinstance(end, torch.cuda.Event):
            end.record()
        self._ends[-1].append(end)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validations.append([_now(pl_module)])
        self._ends.append([])

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        if self.validations and len(self.validations[-1]) == 1:
            self.validations[-1].append(_now(pl_module))

    on_train_end = on_train_batch_start

    def batches(self) -> list[float]:
        """Seconds of each batch after the first validation; without a validation, of the second half."""
        ends = list(chain(*self._ends[1:])) or self._ends[0][len(self._ends[0]) // 2 :]
        if ends and isinstance(ends[0], torch.cuda.Event):
            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1e3 for a, b in pairwise(ends)]
        return [b - a for a, b in pairwise(ends)]

    @property
    def validation(self) -> float:
        """Seconds of the last validation; 0 without one."""
        return self.validations[-1][1] - self.validations[-1][0] if self.validations else 0.0

    def estimate(self, batches: int, validations: int) -> float:
        """Estimated seconds of a run of `batches` and `validations`: up to the first timed batch as measured, the rest
        at the mean pace."""
        start, done = self.first, 1
        if self.validations:
            start, done = self.validations[0][1] - self.started, len(self._ends[0])
            validations -= 1
        return start + max(0, batches - done) * statistics.fmean(self.batches()) + validations * self.validation


def _now(module: L.LightningModule) -> float:
    """The time at which the device is done."""
    if module.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
