"""Stored problems against the solver, which reads their text alone."""

from pathlib import Path

from lmsleep.tasks.base import SPLITS
from lmsleep.tasks.gsm import Dataset, solve
from lmsleep.tasks.gsm.encoder import Encoder


def verify_dataset(folder: str | Path, encoder: Encoder, rows: int | None = None) -> int:
    """Solve the problems of a dataset from their tokens alone, and compare answer and operations with what is stored.

    Args:
        encoder: the tokenizer it was made with.
        rows: how many of each split, from its beginning; None for all.

    Returns:
        how many problems were solved.

    Raises:
        ValueError: if the dataset cannot be opened, a problem is not what its row says, or a problem comes twice.
    """
    dataset = Dataset(folder, encoder)
    solved, seen = 0, set()
    for name in (split for split in SPLITS if dataset.config[split]):
        split = dataset.split(name)
        for row in range(len(split) if rows is None else min(rows, len(split))):
            solution = solve(encoder.decode(split.tokens(row).tolist()))
            stored = int(split.answers[row]), int(split.ops[row]), int(split.answers[row])
            if (solution.answer, solution.op, solution.stated) != stored:
                raise ValueError(f"{folder}: row {row} of {name} says answer and op {stored[:2]}, solved: {solution}")
            solved += 1
        marks = set(split.fingerprints.tolist())
        if len(marks) < len(split) or marks & seen:
            raise ValueError(f"{folder}: a problem of {name} comes twice")
        seen |= marks
    return solved
