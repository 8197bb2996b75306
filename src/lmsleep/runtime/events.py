"""Events of sleeps, for the callbacks of a session."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from lmsleep.memory import FastWeights
from lmsleep.sleep import OnOverflow, WindowPass, sleep


@dataclass(frozen=True)
class SleepEvent:
    """A finished pass of a sleep. A sleep gives N events: the first when it begins, with the wake pass as pass 1. One
    by an `on_overflow` gives the last of them alone.

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


@contextmanager
def reported_sleep(
    callbacks: Sequence[OnSleep],
    rows: tuple[int, ...],
    n_tokens: int,
    n_passes: int,
    policy: OnOverflow | None = None,
) -> Iterator[OnOverflow]:
    """Yields `on_overflow` of `sleep_window`: a sleep with N passes, or `policy`. The callbacks are told of each pass
    when the next one begins, of the last when the block ends. Arguments as of `SleepEvent`."""
    if not callbacks:  # the change of S costs time and, on CUDA, a wait
        yield policy or partial(sleep, n_passes=n_passes)
        return
    changes: list[Tensor] = []
    start = time.perf_counter()

    def notify() -> None:
        seconds = time.perf_counter() - start
        change = tuple(tuple(layers.tolist()) for layers in changes)
        for callback in callbacks:
            passes = len(change) + 1
            callback(SleepEvent(rows, n_tokens, passes if policy else n_passes, passes, change, seconds))

    def on_overflow(blocks: WindowPass, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        blocks.changes = changes
        if policy:
            return policy(blocks, h, S)

        def one_pass(h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
            notify()
            return blocks(h, S)

        return sleep(one_pass, h, S, n_passes)

    yield on_overflow
    notify()
