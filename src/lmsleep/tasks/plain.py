"""Plain text as a task: language modelling."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from lmsleep.hub import check_integer
from lmsleep.tasks.base import MAX_LENGTH, Batch
from lmsleep.tasks.lines import Text
from lmsleep.tasks.records import Lines


@dataclass(frozen=True)
class TextLM(Text):
    """Say the next token of plain text, everywhere; rows are the text cut every `n_windows` windows.

        tokens   Once upon a   | time there was
        targets  upon  a  time | there was  a

    Every window carries loss, so that none sleeps unless with `--sleep.after_loss=true`. Each line is tokenised by
    itself.

    Args:
        n_windows: of a row.
        join: files follow each other as one text; False: no row crosses from a file into the next, and what fills no
            row at the end of a file is left out.
        column: of a dataset, which holds the text.
    """

    n_windows: int = 4
    join: bool = True
    column: str = "text"

    @property
    def _column(self) -> str:
        return self.column

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("n_windows", self.n_windows, 1, MAX_LENGTH // self.window_size)

    @property
    def sequence_length(self) -> int:
        return self.n_windows * self.window_size

    def _measure(self, line: str) -> tuple[int]:
        return (len(self.encode(line)),)

    def _windows(self, lines: Lines) -> np.ndarray:
        return np.full(len(row_starts(lines, self.sequence_length, self.join)), self.n_windows - 1)

    def _batch(self, lines: Lines, rows: np.ndarray) -> Batch:
        starts = row_starts(lines, self.sequence_length, self.join)[rows]
        both = torch.tensor([self._stretch(lines, start) for start in starts])
        return Batch(both[:, :-1], both[:, 1:], torch.full((len(rows),), self.n_windows - 1))

    def _stretch(self, lines: Lines, start: int) -> list[int]:
        """T + 1 tokens from a place of the text on."""
        line = int(np.searchsorted(lines.ends, start, side="right"))
        skip = start - int(lines.ends[line] - lines.table[line, 2])
        tokens: list[int] = []
        while len(tokens) < skip + self.sequence_length + 1:
            tokens += self.encode(lines.read(line))
            line += 1
        return tokens[skip : skip + self.sequence_length + 1]


@lru_cache(maxsize=4)
def row_starts(lines: Lines, length: int, join: bool) -> np.ndarray:
    """Where rows of `length` tokens and a last target start, in tokens of the whole, (n,); see `TextLM`."""
    texts = np.zeros(len(lines.table), int) if join else lines.table[:, 0]
    totals = np.bincount(texts, lines.table[:, 2]).astype(int)
    firsts = np.cumsum(totals) - totals
    return np.concatenate([np.arange(a, a + n - length, length) for a, n in zip(firsts, totals, strict=True)])
