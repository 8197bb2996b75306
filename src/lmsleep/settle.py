"""Alternatives to Algorithm 1's sleep, for `on_overflow`: a sleep until S converges, and S set to zero."""

import torch
from torch import Tensor

from lmsleep.memory import FastWeights, check_n_passes
from lmsleep.sleep import Pass


def settle(
    blocks: Pass, h: Tensor, S: FastWeights, *, threshold: float, most: int, made: list[Tensor] | None = None
) -> tuple[Tensor, FastWeights]:
    """Passes 2, 3, ... until one changes S by less than `threshold`, for each row by itself.

    The change is |S_n - S_(n-1)| / |S_n|, averaged over layers. At least two passes are made, and at most `most`; rows
    that have settled wait, unchanged, for the others of their batch.

    Args:
        blocks: one pass over the window, (B, L, D), S -> (B, L, D), S.
        h, S: what the wake pass left.
        threshold: 0 never stops before `most`.
        most: passes at most, the wake pass included.
        made: the passes that each row took, (B,), are appended to it.

    Raises:
        ValueError: if `most` is below 1.
    """
    check_n_passes(most, "most")
    going = torch.ones(len(h), dtype=torch.bool, device=h.device)
    passes = going.long()
    for _ in range(most - 1):
        next_h, next_S = blocks(h, S)
        passes = passes + going
        unsettled = next_S.changes(S).mean(dim=0) >= threshold
        h, *states = (
            torch.where(going.view(-1, *[1] * (old.ndim - 1)), new, old)
            for new, old in zip((next_h, *next_S.states), (h, *S.states), strict=True)
        )
        S, going = FastWeights(tuple(states)), going & unsettled
        if not going.any():
            break
    if made is not None:
        made.append(passes)
    return h, S


def forget(blocks: Pass, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
    """The control: S is set to zero, so that nothing crosses a hard eviction. Shapes as in `settle`."""
    return h, FastWeights(tuple(torch.zeros_like(state) for state in S.states))
