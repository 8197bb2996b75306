"""The sleep as a Lightning callback."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lmsleep.checks import checked
from lmsleep.memory import FastWeights
from lmsleep.sleep import OnOverflow, WindowPass, sleep
from lmsleep.windows import Eviction, SleepSettings, Windows, policy_name

Kind = TypeVar("Kind", bound=L.Callback)


class Recipe(L.Callback):
    """Base of callbacks that change how batches are trained on: a run resumes only with those that it had."""


class SleepCallback(L.Callback):
    """Answers the overflow of the attention cache with a sleep: passes 2..N over the full window.

    Without this callback a `SleepModule` is the plain hybrid, N = 1. A checkpoint stores these settings. A training run
    with N > 1 in which no window sleeps warns before its first step and at its end.

    Args:
        n_passes: N, the total number of passes over a window that overflows; the wake pass is the first.
        eviction: `hard` empties the cache after a sleep, `sliding` keeps the newest L - 1 tokens.
        allow_other_n: accept a checkpoint that was trained with other settings of this callback.
        after_loss: a window with loss sleeps too, once its loss is taken, if tokens follow it. Algorithm 1 does not do
            this; without it, plain language modelling never sleeps.
        wake_passes: passes over every window, with loss or without, before its outputs are used; a sleep adds N - 1.
            More than one is an ordinary looped language model.
        on_overflow: sleeps in place of passes 2..N, as of `read_windows`: a function, or an instance of a class that
            can be called. Make the class a dataclass, and a run resumes with equal fields alone. For a sharded model it
            must make as many passes on every rank.

    Attributes:
        training_eviction, training_n_passes: replace `eviction` and `n_passes` in training batches; set by recipes.
        n_sleeps: sleeps since the start of the stage.
        seconds_asleep: wall time of these (on CUDA: time to launch them).
        sleeps_per_sequence: mean number of sleeps a row.
        passes_per_sequence: mean number a row of passes over windows that slept, with N passes each.
        change: for each pass 2..N of the last sleep outside of training, the mean over rows of
            |S_n - S_(n-1)| / |S_n| of each fast-weight layer.

    Raises:
        ValueError: if a number of passes is below 1 or given beside `on_overflow`, or the eviction is unknown.
    """

    @checked
    def __init__(
        self,
        n_passes: int = 1,
        eviction: Eviction = "hard",
        allow_other_n: bool = False,
        after_loss: bool = False,
        wake_passes: int = 1,
        on_overflow: OnOverflow | None = None,
    ) -> None:
        self.policy = on_overflow
        self.n_passes, self.allow_other_n, self.after_loss = n_passes, allow_other_n, after_loss
        self.wake_passes = wake_passes
        self.eviction: Eviction = eviction
        self.training_eviction: Eviction | None = None
        self.training_n_passes: int | None = None
        self.settings()  # checks them
        self.reset()

    def reset(self) -> None:
        """Resets all counts."""
        self.n_sleeps, self.seconds_asleep = 0, 0.0
        self.n_sequences, self.n_sequence_sleeps = 0, 0
        self.change: list[list[float]] = []

    def settings(self, training: bool = False) -> SleepSettings:
        """The settings of a batch, in `training` with what a recipe puts in their place."""
        n_passes, eviction = self.n_passes, self.eviction
        if training:
            n_passes, eviction = self.training_n_passes or n_passes, self.training_eviction or eviction
        return SleepSettings(n_passes, eviction, self.after_loss, self.wake_passes, policy_name(self.policy))

    def answer(self, module: L.LightningModule) -> OnOverflow | None:
        """`on_overflow` for the current batch; None where it makes no pass: at N = 1, if there is no other way."""
        overridden = type(self).on_overflow is not SleepCallback.on_overflow
        sleeps = overridden or self.settings(module.training).sleeps
        return partial(self._answer, module) if sleeps else None

    def _answer(
        self, module: L.LightningModule, blocks: WindowPass, h: Tensor, S: FastWeights
    ) -> tuple[Tensor, FastWeights]:
        """`on_overflow`, whatever a subclass makes of the passes, and outside of training the change of S in each."""
        blocks.changes = None if module.training else []
        h, S = self.on_overflow(module, blocks, h, S)
        if blocks.changes:
            self.change = [change.tolist() for change in blocks.changes]
        return h, S

    @property
    def sleeps_per_sequence(self) -> float:
        return self.n_sequence_sleeps / max(1, self.n_sequences)

    @property
    def passes_per_sequence(self) -> float:
        return self.sleeps_per_sequence * (self.wake_passes + self.n_passes - 1)

    def on_overflow(
        self, module: L.LightningModule, blocks: WindowPass, h: Tensor, S: FastWeights
    ) -> tuple[Tensor, FastWeights]:
        """The sleep on one full window: h (B, L, D) and S as the wake pass left them -> as the last one leaves them."""
        start = time.perf_counter()
        answer = self.policy or partial(sleep, n_passes=self.settings(module.training).n_passes)
        h, S = answer(blocks, h, S)
        self.count(1, len(h))
        self.seconds_asleep += time.perf_counter() - start
        return h, S

    def count(self, n_sleeps: int, rows: int) -> None:
        """Counts sleeps of a batch of `rows`."""
        self.n_sleeps += n_sleeps
        self.n_sequence_sleeps += n_sleeps * rows

    @contextmanager
    def counting(self, n_sleeps: int, rows: int) -> Iterator[None]:
        """Counts the sleeps of a CUDA graph, whose replay raises no overflow, and not those of its capture."""
        counts = self.n_sleeps + n_sleeps, self.n_sequence_sleeps + n_sleeps * rows, self.seconds_asleep
        yield
        self.n_sleeps, self.n_sequence_sleeps, self.seconds_asleep = counts

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Raises ValueError if there is another SleepCallback: both would answer an overflow."""
        count = sum(isinstance(c, SleepCallback) for c in trainer.callbacks)  # pyright: ignore
        if count > 1:
            allowed = "callbacks must hold one SleepCallback"
            raise ValueError(f"{allowed}, got {count}; `lmsleep` brings one: set --sleep.n_passes")
        self.reset()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.reset()  # forgets the sanity check

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.settings().sleeps and not self.n_sequences:
            windows = Windows.of(batch.targets, pl_module.model.window_size, self.after_loss)
            if windows.length <= windows.size < pl_module.task.sequence_length:
                windows = None  # rows of one window, others of which have several
            self.settings().warn_if_idle(len(pl_module.model.blocks.state_index), windows, rank_zero_warn)
        self.n_sequences += len(batch.tokens)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.settings().sleeps and self.n_sequences and not self.n_sleeps:
            rank_zero_warn(self.settings().idle("no window of this run"))

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any, **__: Any) -> None:
        self.n_sequences += len(batch.tokens)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["sleep"] = asdict(self.settings())


def find_callback(trainer: L.Trainer | None, kind: type[Kind]) -> Kind | None:
    """The first callback of this kind; None: the trainer has none, or there is no trainer."""
    return next((c for c in getattr(trainer, "callbacks", ()) if isinstance(c, kind)), None)


def sleep_settings(trainer: L.Trainer | None, training: bool = False) -> SleepSettings:
    """The settings of a trainer's SleepCallback; without one, those of the plain hybrid, which never sleeps."""
    sleeper = find_callback(trainer, SleepCallback)
    return SleepSettings() if sleeper is None else sleeper.settings(training)
