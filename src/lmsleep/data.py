"""The data module of all tasks: rows depend on (seed, split, step), not on workers, ranks or resuming."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from lmsleep.checks import check_integer, checked, require
from lmsleep.signals import outlive_signals
from lmsleep.tasks import Batch, Task
from lmsleep.tasks.base import MAX_BATCH, MAX_ROWS, check_counter

TEST_SEED = 0  # held-out rows are the same for every run
MAX_WORKERS = 1024  # a larger value is a mistake
BLOCK, BLOCK_BYTES = 8, 4 << 20  # batches that a worker hands over together, and what they may take of shared memory


class RowsDataModule(L.LightningDataModule):
    """Feeds a task to the trainer.

    Args:
        task: makes the rows.
        batch_size: rows of a training step, over all ranks.
        seed: of the training rows; validation and test rows are the same for every seed.
        eval_rows: rows of the validation and test sets, as `Task.held_out_steps` rounds them.
        eval_batch_size: rows of an evaluation step; None: batch_size.
        num_workers: processes that draw rows; the rows do not depend on it.

    Raises:
        ValueError: if a number is out of range or the ranks do not divide the batch.
    """

    @checked
    def __init__(
        self,
        task: Task,
        batch_size: int = 64,
        seed: int = 0,
        eval_rows: int = 2048,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            check_integer(name, value, 1, MAX_BATCH)
        check_integer("eval_rows", eval_rows, 1, MAX_ROWS)
        check_integer("num_workers", num_workers, 0, MAX_WORKERS)
        check_counter("seed", seed)
        self.task = task
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.eval_rows, self.eval_batch_size = eval_rows, eval_batch_size

    @property
    def tokens_per_batch(self) -> int:
        """Tokens of a training batch, over all ranks."""
        return self.batch_size * self.task.sequence_length

    def train_dataloader(self) -> DataLoader:
        rank, ranks = self._rank_of_ranks
        require(self.batch_size % ranks == 0, f"batch_size must be divisible by the {ranks} ranks", self.batch_size)
        rows = TrainRows(self.task, self.batch_size, self.seed, self._batches_done, rank, ranks)
        pinned = torch.cuda.is_available()  # then the copy to the device overlaps with the step before
        options: dict[str, Any] = {"num_workers": self.num_workers, "worker_init_fn": outlive_signals}
        return BlockLoader(rows, batch_size=None, pin_memory=pinned, **options)

    def val_dataloader(self) -> DataLoader:
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader:
        return self._held_out("test")

    predict_dataloader = test_dataloader

    def _held_out(self, split: str) -> DataLoader:
        steps = self.task.held_out_steps(split, self.eval_batch_size, self.eval_rows)
        rank, ranks = self._rank_of_ranks
        # Ranks of a sharded model gather its weights together, for as many windows: they share every batch. Others take
        # batches in turn. (Lightning's own sampler would repeat batches until they divide evenly among the ranks.)
        together = isinstance(getattr(self.trainer, "strategy", None), ModelParallelStrategy)
        allowed = f"eval_batch_size must leave a batch of {split} for each of {ranks} ranks, and not {steps} in all"
        require(together or steps >= ranks, allowed, self.eval_batch_size)
        rows = HeldOutRows(self.task, split, self.eval_batch_size, steps, *((rank, ranks) if together else (0, 1)))
        turns = (1, 0) if together else (ranks, rank)
        sampler = UnrepeatedDistributedSampler(rows, *turns, shuffle=False) if ranks > 1 else None
        return DataLoader(rows, batch_size=None, sampler=sampler)

    def check_held_out(self, split: str) -> None:
        """Raises ValueError if `val` or `test` has too few rows for the ranks of the trainer, which would else come to
        light when they are read."""
        rows = self._held_out(split).dataset
        if isinstance(rows, HeldOutRows) and rows.ranks > 1:
            for step in range(len(rows)):
                _ = rows[step]

    @property
    def _rank_of_ranks(self) -> tuple[int, int]:
        """This process and how many there are; without a trainer it is alone."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _batches_done(self) -> int:
        """Training batches consumed so far, also before a resume; with `overfit_batches`, those of this epoch."""
        if self.trainer is None:
            return 0
        done, few = self.trainer.fit_loop.total_batch_idx + 1, int(self.trainer.overfit_batches)  # pyright: ignore
        return done % few if few else done


@dataclass(eq=False)
class TrainRows(IterableDataset):
    """The endless training stream from batch `start()` on; rank r keeps rows r, r + ranks, ... of every batch."""

    task: Task
    batch_size: int
    seed: int
    start: Callable[[], int]
    rank: int = 0
    ranks: int = 1

    def __iter__(self) -> Iterator["Batch | Block"]:
        worker, start = get_worker_info(), self.start()
        if worker is None:
            for step in count(start):  # and no `map`, which a StopIteration of the task would end without a word
                yield self.batch(step)
        else:  # the loader takes blocks from its workers in turn
            size = self._block_size(start)
            for first in count(start + worker.id * size, worker.num_workers * size):
                yield self._block(range(first, first + size))

    def _block_size(self, step: int) -> int:
        """Batches of a block, the same in all workers: by what the batch of `step` takes."""
        try:
            taken = sum(x.nbytes for x in self.batch(step) if x is not None)
        except Exception:  # it is raised when the batch's turn has come
            return 1
        return max(1, min(BLOCK, BLOCK_BYTES // max(1, taken)))

    def _block(self, steps: range) -> "Block":
        batches = []
        for step in steps:
            try:
                batches.append(self.batch(step))
            except Exception:
                return Block.of(batches, left=[*steps[len(batches) :]])
        return Block.of(batches)

    def batch(self, step: int) -> Batch:
        """This rank's rows of a step."""
        batch = self.task.rows(split="train", seed=self.seed, step=step, batch_size=self.batch_size)
        return rank_rows(batch, self.rank, self.ranks)


class Block(NamedTuple):
    """Batches of any shapes as few tensors: for each that comes from a worker, the two processes pass on a file."""

    joined: tuple[Tensor | None, ...]  # of each field the elements of all batches, (elements,); None if no batch has it
    shapes: list[list[tuple[int, ...] | None]]  # of each batch, by field
    left: list[int]  # steps behind these, which the worker could not draw

    @classmethod
    def of(cls, batches: list[Batch], left: Sequence[int] = ()) -> "Block":
        """Batches may differ in shape, and in whether they have a mask, but not in dtypes."""
        fields = [[x.flatten() for x in field if x is not None] for field in zip(*batches, strict=True)]
        shapes = [[None if x is None else tuple(x.shape) for x in batch] for batch in batches]
        return cls(tuple(torch.cat(field) if field else None for field in fields), shapes, [*left])

    def batches(self) -> Iterator[Batch]:
        """The batches that it was made of, as views."""
        fields = []
        for joined, shapes in zip(self.joined, zip(*self.shapes, strict=True), strict=True):
            sizes = [math.prod(shape) for shape in shapes if shape is not None]
            parts = iter(() if joined is None else joined.split(sizes))
            fields.append([None if shape is None else next(parts).view(shape) for shape in shapes])
        return map(Batch._make, zip(*fields, strict=True))


class BlockLoader(DataLoader):
    """Takes the blocks apart that the workers send. What a worker could not draw is drawn here, where it raises."""

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        for item in super().__iter__():
            if not isinstance(item, Block):
                yield item
                continue
            yield from item.batches()
            for step in item.left:
                yield self.dataset.batch(step)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(eq=False)
class HeldOutRows(Dataset):
    """The batches of a held-out split, or the rows r, r + ranks, ... of them."""

    task: Task
    split: str
    batch_size: int
    n_batches: int
    rank: int = 0
    ranks: int = 1

    def __len__(self) -> int:
        return self.n_batches

    def __getitem__(self, step: int) -> Batch:
        batch = self.task.rows(split=self.split, seed=TEST_SEED, step=step, batch_size=self.batch_size)
        allowed = f"eval_batch_size must leave every batch of {self.split} a row for each of {self.ranks} ranks"
        require(len(batch.tokens) >= self.ranks, f"{allowed}, and not {len(batch.tokens)}", self.batch_size)
        return rank_rows(batch, self.rank, self.ranks)

    def numbers(self, step: int) -> list[int] | None:
        """`Task.row_numbers` of the rows of a batch."""
        numbers = self.task.row_numbers(split=self.split, seed=TEST_SEED, step=step, batch_size=self.batch_size)
        return numbers and numbers[self.rank :: self.ranks]


def rank_rows(batch: Batch, rank: int, ranks: int) -> Batch:
    """Every `ranks`-th row from `rank` on."""
    return Batch._make(None if field is None else field[rank::ranks] for field in batch)
