"""Batches of rows that have their answer in the same windows, so that the same windows sleep for the whole batch."""

from functools import lru_cache

import numpy as np

from lmsleep.tasks.base import stream
from lmsleep.tasks.gsm_infinite.dataset import Split
from lmsleep.tasks.gsm_infinite.problem import loss_windows


@lru_cache(maxsize=8)
def buckets(split: Split, window_size: int) -> list[np.ndarray]:
    """Row numbers of a split, one array for each pair of first and last window with loss."""
    first, last = loss_windows(split.starts, split.lengths, window_size)
    pairs, bucket = np.unique(np.stack([first, last]), axis=1, return_inverse=True)
    return [np.flatnonzero(bucket == i) for i in range(pairs.shape[1])]


def epoch_steps(split: Split, window_size: int, batch_size: int) -> int:
    """Full batches in an epoch.

    Raises:
        ValueError: if there is none.
    """
    sizes = [len(rows) for rows in buckets(split, window_size)]
    if max(sizes) < batch_size:
        raise ValueError(
            f"batch_size {batch_size} is more than any bucket of window_size {window_size} holds (largest: "
            f"{max(sizes)} rows)"
        )
    return sum(size // batch_size for size in sizes)


@lru_cache(maxsize=4)
def _epoch(split: Split, window_size: int, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """The batches of an epoch in their order, (steps, batch_size)."""
    rng = stream(seed, "train", epoch)
    batches = []
    for rows in buckets(split, window_size):
        full = len(rows) // batch_size * batch_size
        batches.append(rng.permutation(rows)[:full].reshape(-1, batch_size))
    return rng.permutation(np.concatenate(batches))


def epoch_batch(split: Split, window_size: int, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Rows of training step `step`, (batch_size,)."""
    epoch, position = divmod(step, epoch_steps(split, window_size, batch_size))
    return _epoch(split, window_size, seed, epoch, batch_size)[position]


@lru_cache(maxsize=8)
def exact_batches(split: Split, window_size: int, batch_size: int) -> list[np.ndarray]:
    """Batches of at most `batch_size` that show each row once, one operation count after the other in turn.

    An operation count that needs fewer batches than another gets as many by halving its largest ones.
    """
    by_op = []
    for op in np.unique(split.ops):
        own = [rows[split.ops[rows] == op] for rows in buckets(split, window_size)]
        by_op.append([rows[i : i + batch_size] for rows in own for i in range(0, len(rows), batch_size)])
    most = max(map(len, by_op))
    for batches in by_op:
        while len(batches) < most:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            rows = batches.pop(largest)
            batches += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return [batches[i] for i in range(most) for batches in by_op]
