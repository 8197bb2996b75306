"""Samples tokens from logits."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor

from lmsleep.checks import check_integer, checked, require
from lmsleep.runtime.answer import Answer
from lmsleep.runtime.tokens import TokenRows


class Sampling(TypedDict, total=False):
    """Sampling options, see `Session.generate`."""

    temperature: float
    top_k: int | None
    top_p: float
    seed: int | None


@checked
def sampler(
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    top_k: int | None = None,
) -> Callable[[Tensor], Tensor]:
    """A function that samples tokens (B,) from logits (B, V), with one generator for all calls. A temperature below the
    smallest float32 is 0: greedy.

    Raises:
        ValueError: if temperature is below 0 or infinite, top_p outside (0, 1], top_k below 1, or seed outside 64 bit.
    """
    largest = torch.finfo(torch.float32).max
    require(0 <= temperature <= largest, "temperature must be 0 or more and finite", temperature)
    require(0 < top_p <= 1, "top_p must be above 0 and at most 1", top_p)
    temperature = float(temperature)
    if top_k is not None:
        check_integer("top_k", top_k, 1, 2**63 - 1)
    if seed is not None:
        check_integer("seed", seed, 0, 2**64 - 1)
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    if temperature < torch.finfo(torch.float32).tiny:
        return partial(torch.argmax, dim=-1)
    return lambda logits: torch.multinomial(nucleus(logits, temperature, top_p, top_k), 1, generator=generator)[:, 0]


def nucleus(logits: Tensor, temperature: float, top_p: float, top_k: int | None = None) -> Tensor:
    """Probabilities (B, V) for nucleus sampling (arXiv 1904.09751): zero outside of the smallest set with at least
    top_p of the mass of the top_k most likely tokens; not normalised."""
    logits = logits.float()
    # Relative to the maximum, so that no quotient is plus infinity.
    ordered, order = ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).sort(dim=-1, descending=True)
    if top_k is not None:
        ordered[..., top_k:] = -torch.inf
    ordered = ordered.softmax(dim=-1)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    outside[..., 0] = False  # top_p may be 0 in float32
    return torch.zeros_like(logits).scatter(-1, order, ordered.masked_fill(outside, 0))


def decode_steps(
    read: Callable[[TokenRows, bool], Tensor],
    logits: Tensor,
    draw: Callable[[Tensor], Tensor],
    max_new_tokens: int,
    answers: Sequence[Answer] = (),
) -> Iterator[Tensor]:
    """Samples from the logits (B, V) of the last token, reads the sampled tokens, and so on; yields new tokens (B,).

    A row whose answer has ended reads no further and repeats its last token; the steps end when all rows have ended.
    Without `answers` no row ends.
    """
    token = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    for _ in range(max_new_tokens):
        ended = [answer.ended for answer in answers] or [False] * len(logits)
        if all(ended):
            return
        drawn = draw(logits)
        token = torch.where(torch.tensor(ended, device=drawn.device), token, drawn) if any(ended) else drawn
        for answer, new_token in zip(answers, token.tolist() if answers else (), strict=True):
            answer.add(new_token)
        rows = TokenRows(token[:, None], [1 - end for end in ended], None)
        logits = read(rows, True).nan_to_num()  # NaN where a row has ended
        yield token
