"""Fast random choices from one counter-based stream."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_BLOCK = 512


class Draws:
    """Random choices from the uniform numbers of a generator, taken in blocks: a call of numpy for each choice would
    be slower than all the rest, and results do not depend on how numpy's methods consume a stream."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def unit(self) -> float:
        """A number in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(_BLOCK).tolist()
        return self._block.pop()

    def between(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def coin(self, probability: float = 0.5) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self.unit() * len(options))]

    def weighted(self, shares: Mapping[T, float]) -> T:
        """One of the keys, with the probability that is its value; the values add up to 1."""
        at = self.unit()
        for option, share in shares.items():
            at -= share
            if at < 0:
                return option
        return next(reversed(list(shares)))  # the sum may fall short of 1 by a rounding

    def sample(self, options: Sequence[T], k: int) -> list[T]:
        """`k` different entries, in random order (the first k steps of a Fisher-Yates shuffle)."""
        pool = list(options)
        for i in range(k):
            j = i + int(self.unit() * (len(pool) - i))
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in random order."""
        return self.sample(options, len(options))
