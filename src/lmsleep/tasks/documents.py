"""Language modelling on documents."""

import warnings
from array import array
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lmsleep.checks import check_integer, counted, require
from lmsleep.tasks.base import IGNORE, MAX_LENGTH, Batch
from lmsleep.tasks.line_index import LineIndex, holds_documents
from lmsleep.tasks.template import check_template, fill_template, parse_row
from lmsleep.tasks.text_base import TextTask


@dataclass(frozen=True)
class Documents(TextTask):
    """Language modelling on documents: predict every next token of each. The slice of a row is the number of windows
    that can sleep before its last.

    Row of a document that ends in its second window:

        tokens   Once upon a    | time there PAD
        targets  upon  a   time | there was   -
        mask      1    1    1   |   1    1    0

    A document is tokenised whole, and cut into rows of up to `n_windows` windows, each of which starts without fast
    weights. No row crosses documents, and every token but the first of a document is a target once. Every window
    carries loss, so that none sleeps without `--sleep.after_loss=true`. val and test, unless given, are whole documents
    of train, with all their copies; if it has too few, rows. All tokens are held in memory, 4 bytes each.

    Args:
        n_windows: of a row at most.
        text: a document, as a template over the fields of a line of JSON or row of a dataset; None: each file is one,
            and train, val and test may be folders, too.
    """

    unit = "documents"
    more_rows = "; a document has more of them with a smaller window_size or n_windows"
    has_answers = False

    n_windows: int = 4
    text: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("n_windows", self.n_windows, 1, MAX_LENGTH // self.window_size)
        if self.text is not None:
            check_template("text", self.text)

    @property
    def sequence_length(self) -> int:
        return max(int(self._rows(rows.lines).lengths[rows.rows].max()) for rows in self._splits.values())

    def _index(self, source: str, name: str) -> "TokenIndex":
        texts = self.text is not None and Path(source).is_dir() and holds_documents(source)
        require(not texts, f"{name} must have rows, of which text makes documents", source)
        tokens = array("i")

        def measure(line: str) -> tuple[int, int] | None:
            if self.text is not None and not line.strip():
                return None
            text = line if self.text is None else fill_template(self.text, parse_row(line))
            ids = self.encode(text)
            tokens.fromlist(ids)
            return len(ids), hash(text)

        index = LineIndex.of(source, name, measure, whole=self.text is None)
        self._warn_of_lengths(index, source, name)
        return TokenIndex(index.files, index.table, np.frombuffer(tokens, np.int32))

    def _warn_of_lengths(self, index: LineIndex, source: str, name: str) -> None:
        short = np.flatnonzero(index.table[:, 2] < 2)
        if len(short) == len(index.table):
            raise ValueError(f"{name} must have documents of two tokens or more, found none in {source!r}")
        if (longest := int(index.table[:, 2].max())) <= self.window_size + 1:
            rule = f"no document is longer than a window of {self.window_size} tokens, the longest has {longest}"
            warnings.warn(f"{rule} (of {source}): nothing sleeps, so choose a smaller window_size", stacklevel=2)
        if len(short):
            file, place = index.table[short[0], :2]
            first = f"{'' if self.text is None else f'{index.unit} {place} of '}{index.files[file]}"
            are = "is" if len(short) == 1 else "are"
            left_out = f"{len(short)} of {counted(len(index.table), 'documents')} {are} left out, the first at {first}"
            warnings.warn(f"{left_out}: in less than two tokens there is nothing to predict", stacklevel=2)

    def _rows(self, lines: LineIndex) -> "Rows":
        return cut_rows(lines, self.n_windows * self.window_size)

    def _windows(self, lines: LineIndex) -> np.ndarray:
        return -(-self._rows(lines).lengths // self.window_size) - 1

    def _sources(self, lines: LineIndex) -> np.ndarray:
        return self._rows(lines).documents

    def __str__(self) -> str:
        told = []
        for rows in self._splits.values():
            cut = self._rows(rows.lines)
            documents, tokens = len(np.unique(cut.documents[rows.rows])), int(cut.lengths[rows.rows].sum())
            told.append(f"{documents:,} ({counted(tokens, 'tokens')})")
        return f"{super().__str__()}; documents: {', '.join(told[:-1])} and {told[-1]}"

    def _batch(self, lines: LineIndex, rows: np.ndarray) -> Batch:
        assert isinstance(lines, TokenIndex)
        cut = self._rows(lines)
        starts, lengths = cut.starts[rows, None], cut.lengths[rows, None]
        places = np.arange(lengths.max() + 1)
        both = lines.tokens[np.minimum(starts + places, len(lines.tokens) - 1)].astype(np.int64)
        inside = places[:-1] < lengths
        tokens, targets = np.where(inside, both[:, :-1], 0), np.where(inside, both[:, 1:], IGNORE)
        mask = None if inside.all() else torch.from_numpy(inside)
        windows = torch.from_numpy(self._windows(lines)[rows])
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), windows, mask)


@dataclass(frozen=True, eq=False)
class TokenIndex(LineIndex):
    """Documents; a row of `table` has third the number of its tokens, and fourth a hash of its text; `tokens` are
    those of all (n,)."""

    tokens: np.ndarray


class Rows(NamedTuple):
    """For each row, (n,): the number of its document, its first place in the tokens, and how many are read."""

    documents: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


@lru_cache(maxsize=4)
def cut_rows(lines: LineIndex, length: int) -> Rows:
    """The rows of documents, of up to `length` tokens each, behind which there is one more target."""
    sizes = lines.table[:, 2]
    targets = np.maximum(sizes - 1, 0)
    counts = -(-targets // length)
    documents = np.repeat(np.arange(len(counts)), counts)
    before = length * (np.arange(len(documents)) - (np.cumsum(counts) - counts)[documents])  # in the same document
    return Rows(documents, (lines.ends - sizes)[documents] + before, np.minimum(length, targets[documents] - before))
