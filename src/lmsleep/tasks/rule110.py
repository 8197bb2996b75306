"""Rule 110: remember random states, simulate them, answer with their first cells (paper sections 4 and 6.1)."""

from dataclasses import dataclass

import numpy as np
import torch

from lmsleep.checks import check_integer, check_types, require
from lmsleep.tasks.base import IGNORE, Batch, Task, check_batch_size, stream

ENUMERABLE = 24  # cells: 2^24 states take seconds
MAX_STEPS = 4096


def rule110_step(states: np.ndarray, width: int) -> np.ndarray:
    """One step of Rule 110 on rings of `width` cells, (...,) -> (...,): cell j is bit `width - 1 - j` of an unsigned
    integer; new = (c xor r) or (c and not l) with the left and right neighbours l and r."""
    kind = states.dtype.type
    one, top, full = kind(1), kind(width - 1), kind((1 << width) - 1)
    left = (states >> one) | ((states << top) & full)
    right = ((states << one) & full) | (states >> top)
    return (states ^ right) | (states & ~left)


@dataclass(frozen=True)
class Rule110(Task):
    """Say the first cell of each of several states after `steps` steps of Rule 110 on a ring.

    Row, with 4 states of 24 cells (one window each) and a prediction window of 4:

        tokens   0 1 1 .. 0 | 1 1 0 .. 1 | 0 0 1 .. 1 | 1 0 0 .. 0 | START y0 y1 y2
        targets  - - - .. - | - - - .. - | - - - .. - | - - - .. - |  y0   y1 y2 y3
        window        0     |      1     |      2     |      3     |       4

    The targets marked - are ignored by the loss. y_i is cell 0 of state i after `steps` steps. `START` carries no
    information, and no window but the last is visible when the answers are given. The four labels are one answer.

    Args:
        steps: rollout steps t, fixed within a run; also the slice of every row.
        width: cells of a state (3 to 63), which is the window size L.
        n_states: states in a row (1 to `width`).

    Raises:
        ValueError: if an argument is out of range.
    """

    steps: int = 32
    width: int = 24
    n_states: int = 4

    START = 2

    def __post_init__(self) -> None:
        check_types(self)
        check_integer("steps", self.steps, 0, MAX_STEPS)
        require(3 <= self.width <= 63, "width must be between 3 and 63", self.width)
        require(1 <= self.n_states <= self.width, f"n_states must be between 1 and width={self.width}", self.n_states)

    @property
    def vocab_size(self) -> int:
        return 3

    @property
    def window_size(self) -> int:
        return self.width

    @property
    def sequence_length(self) -> int:
        return self.width * self.n_states + self.n_states

    @property
    def slices(self) -> tuple[int, ...]:
        return (self.steps,)

    def majority(self) -> float | None:
        """Exact score of always giving the most frequent answer, by enumerating the states of the cells that determine
        cell 0 after `steps` steps; None if there are more than `ENUMERABLE` cells."""
        cells = min(self.width, 2 * self.steps + 1)
        if cells > ENUMERABLE:
            return None
        ones, chunk = 0, 1 << 16  # a chunk of states fits into a core's cache
        for first in range(0, 1 << cells, chunk):
            states = np.arange(first, min(first + chunk, 1 << cells), dtype=np.uint32)
            for _ in range(self.steps):
                states = rule110_step(states, cells)
            ones += int((states >> np.uint32(cells - 1)).sum())
        share = ones / (1 << cells)
        return max(share, 1 - share) ** self.n_states

    def baselines(self) -> dict[str, dict[str, float]]:
        """`majority`, if it can be enumerated."""
        share = self.majority()
        return {} if share is None else {"majority": {str(self.steps): share}}

    def rows(self, *, split: str, seed: int, step: int, batch_size: int) -> Batch:
        check_batch_size(batch_size)
        states = stream(seed, split, step).integers(0, 1 << self.width, (batch_size, self.n_states), dtype=np.uint64)
        evolved = states
        for _ in range(self.steps):
            evolved = rule110_step(evolved, self.width)
        cells = np.arange(self.width - 1, -1, -1, dtype=np.uint64)
        bits = (states[..., None] >> cells) & np.uint64(1)  # (B, n_states, width)
        labels = torch.from_numpy((evolved >> np.uint64(self.width - 1)).astype(np.int64))  # (B, n_states)
        context = torch.from_numpy(bits.astype(np.int64)).flatten(1)
        start = torch.full((batch_size, 1), self.START, device=context.device)
        tokens = torch.cat([context, start, labels[:, :-1]], dim=1)
        targets = torch.cat([torch.full_like(context, IGNORE), labels], dim=1)
        return Batch(tokens, targets, torch.full((batch_size,), self.steps, device=context.device))
