"""Language modelling on plain text."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from lmsleep.checks import check_integer
from lmsleep.tasks.base import MAX_LENGTH, Batch
from lmsleep.tasks.line_index import LineIndex
from lmsleep.tasks.text_base import TextTask


@dataclass(frozen=True)
class TextLM(TextTask):
    """Language modelling: predict every next token of plain text, cut into rows of `n_windows` windows.

        tokens   Once upon a   | time there was
        targets  upon  a  time | there was  a

    Every window carries loss, so that none sleeps without `--sleep.after_loss=true`. Each line is tokenised by itself.
    Copies are not held out together, as rows are cut across lines: a file that is one of another is warned of, and
    `Documents` keeps them apart.

    Args:
        n_windows: of a row.
        join: concatenate the files; False: no row crosses files, and the rest of a file that fills no row is left out.
        column: the text column of a dataset.
    """

    has_answers = False
    unit = "files"

    n_windows: int = 4
    join: bool = True
    column: str = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("n_windows", self.n_windows, 1, MAX_LENGTH // self.window_size)

    @property
    def sequence_length(self) -> int:
        return self.n_windows * self.window_size

    def _index(self, source: str, name: str) -> LineIndex:
        return LineIndex.of(source, name, lambda line: (len(self.encode(line)), hash(line)), self.column)

    def _windows(self, lines: LineIndex) -> np.ndarray:
        return np.full(len(row_starts(lines, self.sequence_length, self.join)), self.n_windows - 1)

    def _batch(self, lines: LineIndex, rows: np.ndarray) -> Batch:
        starts = row_starts(lines, self.sequence_length, self.join)[rows]
        both = torch.tensor([self._stretch(lines, start) for start in starts], device="cpu")
        return Batch(both[:, :-1], both[:, 1:], torch.full((len(rows),), self.n_windows - 1, device="cpu"))

    def _stretch(self, lines: LineIndex, start: int) -> list[int]:
        """T + 1 tokens from position `start` of the text on."""
        line = int(np.searchsorted(lines.ends, start, side="right"))
        skip = start - int(lines.ends[line] - lines.table[line, 2])
        tokens: list[int] = []
        while len(tokens) < skip + self.sequence_length + 1:
            tokens += lines.read(line, self.encode)
            line += 1
        return tokens[skip : skip + self.sequence_length + 1]


@lru_cache(maxsize=4)
def row_starts(lines: LineIndex, length: int, join: bool) -> np.ndarray:
    """Positions (n,) in the whole text at which rows of `length` tokens and one more target start; see `TextLM`."""
    texts = np.zeros(len(lines.table), int) if join else lines.table[:, 0]
    totals = np.bincount(texts, lines.table[:, 2]).astype(int)
    firsts = np.cumsum(totals) - totals
    return np.concatenate([np.arange(a, a + n - length, length) for a, n in zip(firsts, totals, strict=True)])
