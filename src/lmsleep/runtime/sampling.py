"""Draws tokens from logits."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lmsleep.hub import check_integer
from lmsleep.runtime.tokens import Rows


def sampler(
    temperature: float, top_p: float, seed: int | None, device: torch.device | str
) -> Callable[[Tensor], Tensor]:
    """A function from logits (B, V) to tokens (B,), whose draws go on from call to call. A temperature that float32
    cannot divide by is 0: the most likely token.

    Raises:
        ValueError: if temperature is below 0 or infinite, top_p outside (0, 1], or seed outside 64 bit.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 or more and finite, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if seed is not None:
        check_integer("seed", seed, 0, 2**64 - 1)
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    if temperature < torch.finfo(torch.float32).tiny:
        return partial(torch.argmax, dim=-1)
    return lambda logits: torch.multinomial(nucleus(logits, temperature, top_p), 1, generator=generator)[:, 0]


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Probabilities (B, V) of the smallest set of tokens that holds at least top_p, the rest zero (arXiv 1904.09751).
    They are not normalised again."""
    logits = logits.float()
    # Below the largest, so that no quotient is plus infinity, which has no softmax.
    probabilities = torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / temperature, dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    outside[..., 0] = False  # also of a top_p that is 0 in float32
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0))


def continued(
    read: Callable[[Rows, bool], Tensor],
    logits: Tensor,
    draw: Callable[[Tensor], Tensor],
    max_new_tokens: int,
    stop: int | None = None,
) -> Tensor:
    """Draws from the logits (B, V) of the last token, reads what was drawn, and so on: new tokens (B, n).

    A row that has drawn `stop` reads no further, and `stop` fills its output. The loop ends when all rows have.
    """
    drawn: list[Tensor] = []
    ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    while len(drawn) < max_new_tokens and not (stop is not None and ended.all()):
        token, lengths = draw(logits), [1] * len(logits)
        if stop is not None:
            lengths = (~ended).long().tolist()
            token = token.masked_fill(ended, stop)
            ended = ended | (token == stop)
        drawn.append(token)
        logits = read(Rows(token[:, None], lengths, None), True).nan_to_num()  # an ended row has no logits
    return torch.stack(drawn, dim=1)
