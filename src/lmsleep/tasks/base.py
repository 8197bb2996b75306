"""The interface of tasks: batches, the abstract class, and counter-based random streams."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsleep.checks import check_integer, require
from lmsleep.windows import IGNORE

SPLITS = ("train", "val", "test")
MAX_LENGTH = 1 << 20  # tokens of a window or a row: a larger value is a mistake
MAX_ROWS = 1 << 24  # of a split: the same
MAX_BATCH = 1 << 20  # rows: the same


class Batch(NamedTuple):
    """Rows of one task.

    `targets[b, i]` is what the model must say *at* position i, `IGNORE` where there is no loss; no shift follows later.
    """

    tokens: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64
    slice: Tensor  # (B,) int64: difficulty level of the row; 0 if the row mixes levels
    mask: Tensor | None = None  # (B, T) bool: False on padding, which takes a place in its window; None: no mask


class Task(ABC):
    """The interface of a task: sizes, difficulty levels and rows. Subclasses are frozen dataclasses.

    `slices` are the difficulty levels reported on their own. In the splits `val` and `test` of a task with several of
    them, step i draws rows of slice `slices[i % len(slices)]`, so that any multiple of `len(slices)` steps is balanced.
    """

    has_answers = True  # False: every token of a free text is a target; no row of it is ever exact

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """V, number of tokens."""

    @property
    @abstractmethod
    def sequence_length(self) -> int:
        """T, tokens of the longest row."""

    @property
    @abstractmethod
    def window_size(self) -> int:
        """L, tokens that attention can see together."""

    @property
    @abstractmethod
    def slices(self) -> tuple[int, ...]:
        """The difficulty levels reported on their own."""

    @abstractmethod
    def rows(self, *, split: str, seed: int, step: int, batch_size: int) -> Batch:
        """`batch_size` rows that depend on (seed, split, step) alone. Raises ValueError if one is out of range."""

    def row_numbers(self, *, split: str, seed: int, step: int, batch_size: int) -> list[int] | None:
        """Where the rows of `rows` stand among those of the split as the user gave them, from 0; None: nobody did."""
        return None

    def held_out_steps(self, split: str, batch_size: int, n_rows: int) -> int:
        """Batches with `n_rows` rows of `val` or `test`, rounded up to equally many of every slice. A task with stored
        rows shows each of them once instead, in batches of at most `batch_size`."""
        check_batch_size(batch_size)
        check_integer("n_rows", n_rows, 1, MAX_ROWS)
        return len(self.slices) * -(-n_rows // (batch_size * len(self.slices)))

    def epoch_steps(self, batch_size: int) -> int | None:
        """Training batches of one epoch; None: the rows are endless."""
        return None

    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores on test rows of predictors that read nothing or a part of the row: name -> slice -> score."""
        return {}

    def answers(self, targets: Tensor) -> Tensor:
        """The answer that each of the targets (B, T) belongs to: (B, T) int64, 0, 1, ... within a row, -1 for none. By
        default a row is one answer; an answer is exact if all of its tokens are right."""
        return torch.where(targets == IGNORE, -1, 0)


def split_answers(numbers: Sequence[int], *tokens: Sequence[int]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """For each answer of a row its part of each of `tokens` (P,), by their `numbers` (P,) as of `Task.answers`."""
    for number in sorted({*numbers} - {-1}):
        yield tuple(tuple(x for x, own in zip(of, numbers, strict=True) if own == number) for of in tokens)


def check_split(split: str) -> None:
    """Raises ValueError for an unknown split."""
    require(split in SPLITS, f"split must be one of {', '.join(SPLITS)}", split)


def check_batch_size(batch_size: int) -> None:
    """Raises ValueError unless a batch can have so many rows."""
    check_integer("batch_size", batch_size, 1, MAX_BATCH)


def check_counter(name: str, value: int) -> None:
    """Raises ValueError unless a seed or step is an integer of 64 bits; numpy would take 1.5 for 1."""
    check_integer(name, value, 0, 2**64 - 1)


def stream(seed: int, split: str, step: int) -> np.random.Generator:
    """Random numbers that depend on (seed, split, step) alone.

    Philox is counter-based: seed and split form the key, the step the highest word of the counter. Two steps are 2^192
    draws apart and splits have different keys, so the streams are disjoint. Raises ValueError for an unknown split, or
    a seed or step as of `check_counter`.
    """
    check_split(split)
    check_counter("seed", seed)
    check_counter("step", step)
    return np.random.Generator(np.random.Philox(key=[seed, SPLITS.index(split)], counter=[0, 0, 0, step]))
