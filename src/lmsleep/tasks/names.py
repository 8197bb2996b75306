"""Names of one or several tokens for Depo's nodes (Physics of Language Models 4.1, appendix A.1)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Names:
    """All names of `shortest` to `longest` tokens over the symbols 1 to V. V is added to the last symbol of a name, to
    mark its end, unless all names have one token."""

    n_symbols: int
    shortest: int = 1
    longest: int = 1

    def __len__(self) -> int:
        return sum(self.n_symbols**length for length in range(self.shortest, self.longest + 1))

    @property
    def n_tokens(self) -> int:
        """Names are made of the tokens 1 to `n_tokens`."""
        return self.n_symbols * (2 if self.longest > 1 else 1)

    @cached_property
    def table(self) -> np.ndarray:
        """All names, (names, longest), padded with zeros."""
        tables = []
        for length in range(self.shortest, self.longest + 1):
            symbols = np.indices((self.n_symbols,) * length).reshape(length, -1).T + 1
            symbols[:, -1] += self.n_tokens - self.n_symbols
            tables.append(np.pad(symbols, ((0, 0), (0, self.longest - length))))
        return np.concatenate(tables)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each name, (names,)."""
        return (self.table > 0).sum(axis=1)

    def draw(self, rng: np.random.Generator, batch_size: int, n: int) -> np.ndarray:
        """n different names a row, as indices (B, n) into `table`.

        A draw is a uniform length, then uniform symbols, rejecting names that the row has. Sampled as an exponential
        race: arrival times with rate p(name) come in the order of such draws.
        """
        times = rng.standard_exponential((batch_size, len(self)), dtype=np.float32)
        times *= (float(self.n_symbols) ** self.lengths).astype(np.float32)
        first = np.argpartition(times, n - 1, axis=1)[:, :n]
        return np.take_along_axis(first, np.take_along_axis(times, first, axis=1).argsort(axis=1), axis=1)
