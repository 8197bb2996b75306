"""Token-by-token decoding with a static cache, which a CUDA graph can capture."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lmsleep.checks import require
from lmsleep.memory import KV, AttentionCache, FastWeights, LayerCache
from lmsleep.model import HybridLM, PassContext
from lmsleep.model.linear import product_dtype
from lmsleep.runtime.graphs import capture
from lmsleep.runtime.memory import Memory


class Decoder:
    """Decodes token by token in buffers of fixed size; `load` copies a memory in, `unload` copies it out.

    Keys and values are a ring buffer of L slots, position p in slot p mod L. On CUDA the step is captured once as a
    graph and replayed.

    Args:
        model: whose weights may change in place, but not be replaced.
        batch_size: B.
    """

    def __init__(self, model: HybridLM, batch_size: int) -> None:
        self.model, self.batch_size, self.size = model, batch_size, model.window_size
        self.dtype = product_dtype(model.embedding.weight)  # that of autocast, of which keys and values are
        device = model.embedding.weight.device
        self.slots = torch.arange(self.size, device=device)
        self.tokens = torch.zeros(batch_size, 1, dtype=torch.long, device=device)
        self.position, self.fresh = (torch.zeros(1, dtype=torch.long, device=device) for _ in range(2))
        self.visible = torch.zeros(batch_size, 1, 1, self.size, dtype=torch.bool, device=device)
        self.S = [state.clone() for state in model.init_fast_weights(batch_size).states]
        with torch.no_grad():
            wake = model.wake(self.tokens, FastWeights(tuple(self.S)), model.init_cache())
            self.logits = model.logits(wake.h)
        self.core = wake.core.new_zeros(batch_size, self.size, wake.core.shape[2])
        self.layers: tuple[LayerCache, ...] = tuple(
            KV(*(x.new_zeros(*x.shape[:2], self.size, x.shape[3]) for x in entry))
            if isinstance(entry, KV)
            else entry and entry._make(map(torch.zeros_like, entry))
            for entry in wake.cache.layers
        )
        self.replay = capture(self._step, device)
        self.load(Memory.start(model, batch_size))

    def load(self, memory: Memory) -> None:
        """Copies a memory of B rows into the buffers."""
        cache = memory.cache
        self.began, self.n_read = replace(memory, cache=replace(cache, layers=()), core=()), 0
        self.position.fill_(cache.position)
        self.fresh.fill_(cache.fresh)
        slots, n = self._slots()
        self.visible.zero_()
        self.visible[..., slots] = True if cache.mask is None else cache.mask[:, None, None, cache.held - n :]
        for buffer, state in zip(self.S, memory.S.states, strict=True):
            buffer.copy_(state)
        for i, buffers in enumerate(self.layers):
            entry = cache.layer(i)
            for j, buffer in enumerate(buffers or ()):
                if entry:
                    buffer[_places(buffers, slots)] = entry.keep(n)[j].to(buffer.dtype)
                else:
                    buffer.zero_()
        if memory.core:
            self.core[:, : cache.fresh] = torch.cat(memory.core, dim=1)

    def fits(self, batch_size: int) -> bool:
        """Whether the buffers are of B rows, and of the dtype that layers have here."""
        return (batch_size, product_dtype(self.model.embedding.weight)) == (self.batch_size, self.dtype)

    @property
    def full(self) -> bool:
        """Whether the next token overflows the window."""
        return self.n_read >= self.began.cache.room

    def unload(self) -> Memory:
        """A copy of the memory after the tokens read since `load`."""
        before = self.began.cache
        slots, n = self._slots()
        layers = tuple(entry and entry._make(x[_places(entry, slots)].clone() for x in entry) for entry in self.layers)
        mask = None if before.mask is None else self.visible[:, 0, 0, slots]
        fresh = before.fresh + self.n_read
        cache = AttentionCache(self.size, before.position + self.n_read, fresh, n, layers, mask)
        S = FastWeights(tuple(state.clone() for state in self.S))
        return replace(self.began, S=S, cache=cache, core=(self.core[:, :fresh].clone(),))

    def _slots(self) -> tuple[Tensor, int]:
        """The slots of the cached tokens, oldest first, and their number."""
        cache = self.began.cache
        n, end = min(cache.held + self.n_read, self.size), cache.position + self.n_read
        return torch.arange(end - n, end, device=self.slots.device) % self.size, n

    def step(self, tokens: Tensor) -> Tensor:
        """Reads tokens (B, 1), for which the window must have room, and returns their logits (B, 1, V)."""
        assert not self.full, "the window is full"
        self.tokens.copy_(tokens)
        with torch.no_grad():
            self.replay()
        self.n_read += 1
        return self.logits.clone()

    def _step(self) -> None:
        slot = self.position % self.size
        self.visible.index_fill_(3, slot, True)
        width = self.model.config.sliding_window
        visible_sliding = (
            self.visible if width is None else self.visible & ((self.position - self.slots) % self.size < width)
        )
        rotary = self.model.blocks.rotary.at(self.position, self.model.embedding.weight)
        ctx = PassContext(rotary, self.visible, None, visible_sliding, slot)
        cache = AttentionCache(self.size, layers=self.layers)
        wake = self.model.wake(self.tokens, FastWeights(tuple(self.S)), cache, ctx=ctx)
        self.logits.copy_(self.model.logits(wake.h))
        self.core.index_copy_(1, self.fresh, wake.core)
        for buffer, state in zip(self.S, wake.S.states, strict=True):
            buffer.copy_(state)
        for buffers, entry in zip(self.layers, wake.cache.layers, strict=True):
            for buffer, x in zip(buffers or (), entry or (), strict=True):
                allowed = "static must be False for a mixer whose cache entry grows in spite of ctx.cache_slot"
                require(x.shape == buffer.shape, allowed, True)
                if x is not buffer:  # attention may write keys and values in place
                    buffer.copy_(x)
        self.position += 1
        self.fresh += 1


def _places(entry: LayerCache, slots: Tensor) -> Any:
    """The index of used entries in the buffers of a block: keys and values in `slots`, others everywhere."""
    return (slice(None), slice(None), slots) if isinstance(entry, KV) else ...
