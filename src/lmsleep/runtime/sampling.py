"""Draws tokens from logits."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Real
from typing import TypedDict

import torch
from torch import Tensor

from lmsleep.hub import check_integer, require
from lmsleep.runtime.answer import Answer
from lmsleep.runtime.tokens import Rows


class Drawing(TypedDict, total=False):
    """How tokens are drawn: see `Session.generate`."""

    temperature: float
    top_k: int | None
    top_p: float
    seed: int | None


def sampler(
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    top_k: int | None = None,
) -> Callable[[Tensor], Tensor]:
    """A function from logits (B, V) to tokens (B,), whose draws go on from call to call. A temperature that float32
    cannot divide by is 0: the most likely token.

    Raises:
        ValueError: if temperature is below 0 or infinite, top_p outside (0, 1], top_k below 1, or seed outside 64 bit.
    """
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ValueError(f"{name} must be a number, got {value!r:.99}")
    largest = torch.finfo(torch.float32).max
    require(0 <= temperature <= largest, "temperature must be 0 or more and finite", temperature)
    require(0 < top_p <= 1, "top_p must be above 0 and at most 1", top_p)
    temperature = float(temperature)
    if top_k is not None:
        check_integer("top_k", top_k, 1, 2**63 - 1)
    if seed is not None:
        check_integer("seed", seed, 0, 2**64 - 1)
    generator = None if seed is None else torch.Generator(device).manual_seed(int(seed))
    if temperature < torch.finfo(torch.float32).tiny:
        return partial(torch.argmax, dim=-1)
    return lambda logits: torch.multinomial(nucleus(logits, temperature, top_p, top_k), 1, generator=generator)[:, 0]


def nucleus(logits: Tensor, temperature: float, top_p: float, top_k: int | None = None) -> Tensor:
    """Probabilities (B, V) of the smallest set of tokens that holds at least top_p of the top_k most likely ones, the
    rest zero (arXiv 1904.09751). They are not normalised again."""
    logits = logits.float()
    # Below the largest, so that no quotient is plus infinity, which has no softmax.
    ordered, order = ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).sort(dim=-1, descending=True)
    if top_k is not None:
        ordered[..., top_k:] = -torch.inf
    ordered = ordered.softmax(dim=-1)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    outside[..., 0] = False  # also of a top_p that is 0 in float32
    return torch.zeros_like(logits).scatter(-1, order, ordered.masked_fill(outside, 0))


def continued(
    read: Callable[[Rows, bool], Tensor],
    logits: Tensor,
    draw: Callable[[Tensor], Tensor],
    max_new_tokens: int,
    answers: Sequence[Answer] = (),
) -> Iterator[Tensor]:
    """Draws from the logits (B, V) of the last token, reads what was drawn, and so on: new tokens (B,) step by step.

    A row whose answer has ended reads no further, and its last token fills its output. The steps end when all rows
    have. Without `answers` no row ends.
    """
    token = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    for _ in range(max_new_tokens):
        ended = [answer.ended for answer in answers] or [False] * len(logits)
        if all(ended):
            return
        drawn = draw(logits)
        token = torch.where(torch.tensor(ended, device=drawn.device), token, drawn) if any(ended) else drawn
        for answer, one in zip(answers, token.tolist() if answers else (), strict=True):
            answer.add(one)
        logits = read(
            Rows(token[:, None], [1 - end for end in ended], None), True
        ).nan_to_num()  # an ended row has none
        yield token
