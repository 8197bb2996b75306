"""What a task must keep to, looked at before a run trains on it."""

from typing import Any

import torch
from torch import Tensor

from lmsleep.checks import check_integer, checked, require
from lmsleep.tasks.base import MAX_LENGTH, SPLITS, Batch, Task
from lmsleep.windows import IGNORE, by_window, check_batch


@checked
def check_task(task: Task, batch_size: int = 8) -> None:
    """Holds a task to its contract: its class, sizes, and a batch of every split, drawn twice.

    Args:
        batch_size: rows of a batch.

    Raises:
        ValueError: that names the split and what is wrong: types, shapes, ranges, slices, a batch without targets,
            targets of its rows in different windows, or rows that depend on more than (split, seed, step).
    """
    for name, most in (("vocab_size", 2**31 - 1), ("window_size", MAX_LENGTH), ("sequence_length", MAX_LENGTH)):
        check_integer(f"{name} of the task", getattr(task, name), 1, most)
    slices: Any = task.slices
    listed = isinstance(slices, tuple) and slices and all(type(one) is int for one in slices)
    require(listed, "slices of the task must be a tuple of one or more integers", slices)
    for split in SPLITS:
        first, again = (task.rows(split=split, seed=0, step=0, batch_size=batch_size) for _ in range(2))
        try:
            _check_rows(task, split, first, batch_size)
        except ValueError as error:
            raise ValueError(f"{type(task).__name__}, rows of {split}: {error}") from None
        same = all(a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(first, again, strict=True))
        rule = f"{type(task).__name__}, rows of {split} must depend on split, seed and step alone"
        require(same, rule, "others for the same step")


def _check_rows(task: Task, split: str, batch: Any, batch_size: int) -> None:
    """Raises ValueError if a batch of a split does not fit the task."""
    require(isinstance(batch, Batch), "must be a Batch", type(batch).__name__)
    check_batch(batch.tokens, batch.targets, batch.mask, task.vocab_size)
    rows, length = batch.tokens.shape
    fits = rows == batch_size if split == "train" else rows <= batch_size  # stored rows may run out
    require(fits, f"tokens must have batch_size={batch_size} rows", rows)
    whole = task.epoch_steps(batch_size) is None and batch.mask is None  # neither stored nor padded
    rule = f"tokens must be {'' if whole else 'at most '}sequence_length={task.sequence_length} a row"
    require(length == task.sequence_length if whole else length <= task.sequence_length, rule, length)
    scored = batch.targets != IGNORE
    require(scored.any(), f"targets must be other than {IGNORE} somewhere", "none")
    level = batch.slice
    kind = (tuple(level.shape), level.dtype)
    require(kind == ((rows,), torch.int64), f"slice must be torch.int64 of shape {(rows,)}", kind)
    allowed = {*task.slices, *([0] if split == "train" else [])}
    require(set(level.tolist()) <= allowed, f"slice must be one of {sorted(allowed)}", sorted(set(level.tolist())))
    _check_windows(scored, batch.mask, task.window_size)
    owners = task.answers(batch.targets)
    rule = f"answers must have the shape of targets {(rows, length)}"
    require(owners.shape == scored.shape, rule, tuple(owners.shape))


def _check_windows(scored: Tensor, mask: Tensor | None, size: int) -> None:
    """Raises ValueError if a full window has targets in some rows (B, T) and none in others, which then do not sleep on
    it as they would alone. What is masked sleeps without a trace."""
    full = scored.shape[1] // size
    with_targets = by_window(scored, size)[:, :full]
    silent = ~with_targets if mask is None else by_window(mask, size)[:, :full] & ~with_targets
    for number in (with_targets.any(dim=0) & silent.any(dim=0)).nonzero().flatten().tolist():
        one, other = (int(rows[:, number].nonzero()[0]) for rows in (with_targets, silent))
        rule = "targets must lie in the same windows in all rows of a batch, since a window with loss stays awake"
        raise ValueError(f"{rule} for all of them; got window {number} with some in row {one}, none in row {other}")
