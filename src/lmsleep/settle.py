"""Alternatives to Algorithm 1's sleep, for `on_overflow`: a sleep until S converges, and S set to zero."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmsleep.checks import check_types, require
from lmsleep.memory import FastWeights
from lmsleep.sleep import Pass
from lmsleep.windows import check_n_passes


@dataclass(frozen=True)
class Settle:
    """Passes 2, 3, ... until one changes S by less than `threshold`, for each row by itself.

    The change is |S_n - S_(n-1)| / |S_n|, averaged over layers. At least two passes are made, and at most `most`; rows
    that have settled wait, unchanged, for the others of their batch.

    Args:
        threshold: 0 never stops before `most`.
        most: passes at most, the wake pass included.
        record: called with the passes that each row took, (B,).

    Raises:
        ValueError: if `most` is below 1, or `threshold` is negative.
    """

    threshold: float
    most: int
    record: Callable[[Tensor], None] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_n_passes(self.most, "most")
        require(self.threshold >= 0, "threshold must be 0 or more", self.threshold)

    def __call__(self, blocks: Pass, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        """`blocks`: one pass over the window, h (B, L, D), S -> h, S; h and S: what the wake pass left."""
        going = torch.ones(len(h), dtype=torch.bool, device=h.device)
        passes = going.long()
        for _ in range(self.most - 1):
            next_h, next_S = blocks(h, S)
            passes = passes + going
            unsettled = next_S.changes(S).mean(dim=0) >= self.threshold
            h, *states = (
                torch.where(going.view(-1, *[1] * (old.ndim - 1)), new, old)
                for new, old in zip((next_h, *next_S.states), (h, *S.states), strict=True)
            )
            S, going = FastWeights(tuple(states)), going & unsettled
            if not going.any():
                break
        if self.record is not None:
            self.record(passes)
        return h, S


def forget(blocks: Pass, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
    """The control: S is set to zero, so that nothing crosses a hard eviction. Shapes as in `Settle`."""
    return h, FastWeights(tuple(torch.zeros_like(state) for state in S.states))
