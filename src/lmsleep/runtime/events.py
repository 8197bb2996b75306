"""What a session tells its callbacks about a sleep."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from lmsleep.memory import FastWeights
from lmsleep.sleep import OnOverflow, Pass, sleep


@dataclass(frozen=True)
class SleepEvent:
    """A pass of a sleep has been made. A sleep gives N events: the first when it begins, with the wake pass as pass 1.

    Args:
        rows: rows of the batch that sleep.
        n_tokens: tokens of their window.
        n_passes: N.
        passes: passes made, the wake pass included.
        change: for each of the passes 2..`passes`, |S_n - S_(n-1)| / |S_n| of each fast-weight layer, mean over rows.
        seconds: wall time since the sleep began; in the last event with the eviction.
    """

    rows: tuple[int, ...]
    n_tokens: int
    n_passes: int
    passes: int
    change: tuple[tuple[float, ...], ...]
    seconds: float

    @property
    def done(self) -> bool:
        """The sleep is over."""
        return self.passes == self.n_passes


OnSleep = Callable[[SleepEvent], None]


class Narrator:
    """Sleeps with N passes and tells the callbacks after each pass.

    Args:
        rows, n_tokens, n_passes: as in `SleepEvent`.
    """

    def __init__(self, callbacks: Sequence[OnSleep], rows: tuple[int, ...], n_tokens: int, n_passes: int) -> None:
        self.callbacks, self.rows, self.n_tokens, self.n_passes = callbacks, rows, n_tokens, n_passes
        self.change: list[tuple[float, ...]] = []
        self.start = time.perf_counter()

    @property
    def on_overflow(self) -> OnOverflow:
        """The sleep, for `sleep_window`."""
        # The change of S costs time and, on CUDA, a wait: it is worked out only where somebody listens.
        return self._traced if self.callbacks else partial(sleep, n_passes=self.n_passes)

    def _traced(self, blocks: Pass, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        def one_pass(h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
            self.tell()
            h, after = blocks(h, S)
            self.change.append(tuple(after.change(S).tolist()))
            return h, after

        return sleep(one_pass, h, S, self.n_passes)

    def tell(self) -> None:
        """The event of the last pass made."""
        seconds = time.perf_counter() - self.start
        passes, change = len(self.change) + 1, tuple(self.change)
        for callback in self.callbacks:
            callback(SleepEvent(self.rows, self.n_tokens, self.n_passes, passes, change, seconds))
