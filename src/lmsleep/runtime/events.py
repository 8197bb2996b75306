"""Events of sleeps, for the callbacks of a session."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lmsleep.memory import FastWeights
from lmsleep.sleep import WindowPass, sleep


@dataclass(frozen=True)
class SleepEvent:
    """A finished pass of a sleep. A sleep gives N events: the first when it begins, with the wake pass as pass 1.

    Args:
        rows: rows of the batch that sleep.
        n_tokens: tokens of their window.
        n_passes: N.
        passes: passes so far, the wake pass included.
        change: for each of the passes 2..`passes`, |S_n - S_(n-1)| / |S_n| of each fast-weight layer, mean over rows.
        seconds: wall time since the sleep began; the last event includes the eviction.
    """

    rows: tuple[int, ...]
    n_tokens: int
    n_passes: int
    passes: int
    change: tuple[tuple[float, ...], ...]
    seconds: float

    @property
    def done(self) -> bool:
        """Whether the sleep is over."""
        return self.passes == self.n_passes

    @property
    def changes(self) -> tuple[float, ...]:
        """`change` averaged over layers; empty for a model without fast weights."""
        return tuple(sum(layers) / len(layers) for layers in self.change if layers)

    def __str__(self) -> str:
        changes = " → ".join(f"{change:.0%}" for change in self.changes)
        return f"pass {self.passes}/{self.n_passes}" + (f", S changed by {changes}" if changes else "")


OnSleep = Callable[[SleepEvent], None]


class SleepNotifier:
    """Sleeps with N passes and calls the callbacks after each pass; arguments as of `SleepEvent`."""

    def __init__(self, callbacks: Sequence[OnSleep], rows: tuple[int, ...], n_tokens: int, n_passes: int) -> None:
        self.callbacks = callbacks
        self.rows = rows
        self.n_tokens = n_tokens
        self.n_passes = n_passes
        self.changes: list[Tensor] = []
        self.start = time.perf_counter()

    def on_overflow(self, blocks: WindowPass, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        """The sleep: `on_overflow` of `sleep_window`."""
        if not self.callbacks:  # the change of S costs time and, on CUDA, a wait
            return sleep(blocks, h, S, self.n_passes)
        blocks.changes = self.changes

        def one_pass(h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
            self.notify()
            return blocks(h, S)

        return sleep(one_pass, h, S, self.n_passes)

    def notify(self) -> None:
        """Calls the callbacks with the event of the last pass."""
        seconds = time.perf_counter() - self.start
        change = tuple(tuple(layers.tolist()) for layers in self.changes)
        for callback in self.callbacks:
            callback(SleepEvent(self.rows, self.n_tokens, self.n_passes, len(change) + 1, change, seconds))
