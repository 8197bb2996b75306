"""The fully parallel sliding window: a whole sequence in one pass, every token seeing the L - 1 before it.

It computes the same as reading by windows at N = 1 with sliding eviction, without the loop over windows.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.model import HybridConfig, HybridLM, PassContext, SharedWeights
from lmsleep.model.attention import Attention
from lmsleep.ops.window_attention.sdpa import attend


class ParallelSlidingAttention(Attention):
    """Attention over any number of tokens, each of which sees the last L, itself included."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.size = config.window_size or 1

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """As `Attention.attend`; `visible` is ignored."""
        return flex_sliding(q, k, v, self.size) if q.is_cuda else banded_sliding(q, k, v, self.size)


def banded_sliding(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Chunks of `window` tokens, each against itself and the chunk before it. Shapes as in `attend`."""
    batch, length = len(q), q.shape[2]
    q, k, v = (F.pad(x, (0, 0, 0, -length % window)).unflatten(2, (-1, window)) for x in (q, k, v))
    # (B, H, chunks, 2 window, K), with zeros before the first chunk
    k, v = (torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1], x], dim=3) for x in (k, v))
    query, key = torch.arange(window, device=q.device)[:, None], torch.arange(2 * window, device=q.device)
    band = (key > query) & (key <= query + window)
    first = band & (key >= window)  # the first chunk has none before it
    visible = torch.stack([first] + [band] * (q.shape[2] - 1)).repeat(batch, 1, 1)[:, None]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B chunks, H, ...)
    o = attend(q, k, v, visible)
    return o.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)[:, :, :length]


def flex_sliding(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """The same with torch's flex attention, which skips masked blocks."""
    attention, mask = _flex(q.shape[2], window, str(q.device))
    return attention(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


@cache
def _flex(length: int, window: int, device: str) -> tuple[Callable[..., Any], Any]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key > query - window)

    return torch.compile(flex_attention), create_block_mask(seen, None, None, length, length, device=device)


def parallel_twin(model: HybridLM) -> HybridLM:
    """A model with the same parameters and `ParallelSlidingAttention`."""
    with torch.device("meta"):
        twin = HybridLM(model.config)
        for layer in twin.blocks.layers:
            if isinstance(layer.mixer, Attention):
                layer.mixer = ParallelSlidingAttention(model.config)
    twin.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    twin.blocks.rotary, twin.blocks.checkpointing = model.blocks.rotary, model.blocks.checkpointing
    return twin


def parallel_hidden(model: HybridLM, tokens: Tensor, shared: SharedWeights | None = None) -> Tensor:
    """Outputs of the last block (B, T, D) after one pass over all tokens (B, T), checkpointed block by block."""
    h, S, cache = model.embed(tokens, shared), model.init_fast_weights(len(tokens)), model.init_cache()
    ctx = PassContext(model.blocks.rotary(0, tokens.shape[1], h), shared=shared)
    for i in range(model.config.depth):
        h, S, _ = model.blocks.run(i, i + 1, h, S, cache, ctx)
    return h
