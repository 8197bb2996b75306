"""Draws tokens from logits."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lmsleep.runtime.tokens import Rows


def sampler(
    temperature: float, top_p: float, seed: int | None, device: torch.device | str
) -> Callable[[Tensor], Tensor]:
    """A function from logits (B, V) to tokens (B,), whose draws go on from call to call.

    Raises:
        ValueError: if temperature is below 0 or top_p outside (0, 1].
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 or more, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    if temperature == 0:
        return partial(torch.argmax, dim=-1)
    return lambda logits: torch.multinomial(nucleus(logits, temperature, top_p), 1, generator=generator)[:, 0]


def nucleus(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Probabilities (B, V) of the smallest set of tokens that holds at least top_p, the rest zero (arXiv 1904.09751).
    They are not normalised again."""
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
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
