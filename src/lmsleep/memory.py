"""The two memories of a model: fast weights, which cross a window boundary, and the attention cache, which eviction
empties. Both are immutable values: every operation returns a new one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmsleep.checks import require, typed
from lmsleep.windows import Eviction


@dataclass(frozen=True)
class FastWeights:
    """S: one state per fast-weight layer, in the order of the blocks.

    Args:
        states: one tensor a fast-weight layer: (B, H, K, V) for `gated_delta` and `jet`, (B, H, P, N) for `mamba2`.
            float32 also under mixed precision.
    """

    states: tuple[Tensor, ...]

    @classmethod
    def zeros(
        cls,
        shapes: Iterable[Sequence[int]],
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "FastWeights":
        """S at the start of a sequence (Algorithm 1, line 1)."""
        return cls(tuple(torch.zeros(batch_size, *shape, device=device, dtype=dtype) for shape in shapes))

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, layer: int) -> Tensor:
        return self.states[layer]

    def with_layers(self, changed: dict[int, Tensor]) -> "FastWeights":
        """The same fast weights with some layers' states exchanged."""
        return FastWeights(tuple(changed.get(i, state) for i, state in enumerate(self.states)))

    def detach(self) -> "FastWeights":
        """Cuts the gradient, keeps the values."""
        return FastWeights(tuple(state.detach() for state in self.states))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "FastWeights":
        """The same fast weights on another device or in another dtype."""
        return FastWeights(tuple(state.to(device=device, dtype=dtype) for state in self.states))

    def norms(self) -> Tensor:
        """Frobenius norm of each layer's state: (n_layers, B)."""
        if not self.states:
            return torch.zeros(0, 0)
        return torch.stack([state.flatten(1).norm(dim=1) for state in self.states])

    def changes(self, before: "FastWeights") -> Tensor:
        """|S - before| / |S| for each layer and row: (n_layers, B)."""
        step = FastWeights(tuple(b - a for a, b in zip(before.states, self.states, strict=True)))
        return step.norms() / self.norms().clamp(min=1e-12)

    def change(self, before: "FastWeights") -> Tensor:
        """`changes` averaged over the rows: (n_layers,)."""
        return self.changes(before).mean(dim=1)

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(state.nbytes for state in self.states)


def check_fast_weights(name: str, S: Any, start: FastWeights) -> None:
    """Raises ValueError, which says `name`, unless S has the layers of `start`, each of its shape and dtype."""
    require(isinstance(S, FastWeights), f"{name} must be FastWeights", type(S).__name__)
    require(len(S) == len(start), f"{name} must have {len(start)} layers", len(S))
    for layer, (state, like) in enumerate(zip(S.states, start.states, strict=True)):
        kind = (None, None) if state is None else (tuple(state.shape), state.dtype)
        allowed = f"layer {layer} of {name} must be {like.dtype} of shape {tuple(like.shape)}"
        require(kind == (like.shape, like.dtype), allowed, kind)


class KV(NamedTuple):
    """Keys and values (B, kv_heads, m, K) of the m visible tokens, oldest first."""

    keys: Tensor
    values: Tensor

    def keep(self, n: int) -> "KV":
        """The keys and values of the newest n tokens."""
        start = self.keys.shape[2] - n
        return KV(self.keys[:, :, start:], self.values[:, :, start:])


class ConvTail(NamedTuple):
    """The last inputs (B, w, channels) of a short convolution, w = its width - 1."""

    inputs: Tensor

    def keep(self, n: int) -> "ConvTail":
        """Itself: it belongs to the newest token."""
        return self


LayerCache = KV | ConvTail | None  # the cache entry of one block


@dataclass(frozen=True)
class AttentionCache:
    """The cache entries of the tokens that are still visible.

    Args:
        capacity: L, the tokens that attention can see together.
        position: position of the next token; restarts at 0 after a hard eviction.
        fresh: tokens of the current window: those read since the last eviction.
        held: m, all tokens in the cache.
        layers: one entry a block; empty before the first token.
        mask: (B, m) bool, False for masked tokens; None if there are none.
    """

    capacity: int
    position: int = 0
    fresh: int = 0
    held: int = 0
    layers: tuple[LayerCache, ...] = ()
    mask: Tensor | None = None

    @property
    def full(self) -> bool:
        """Whether the next token overflows the window."""
        return self.fresh >= self.capacity

    @property
    def room(self) -> int:
        """Tokens that still fit into the current window."""
        return self.capacity - self.fresh

    def layer(self, index: int) -> LayerCache:
        """The entry of a block."""
        return self.layers[index] if self.layers else None

    def joined_mask(self, mask: Tensor | None, h: Tensor) -> Tensor | None:
        """The mask (B, m + n) over the cached tokens and those of h (B, n, D); None if nothing is masked."""
        if mask is None and self.mask is None:
            return None
        everyone = torch.ones(len(h), self.held + h.shape[1], dtype=torch.bool, device=h.device)
        past = everyone[:, : self.held] if self.mask is None else self.mask
        return torch.cat([past, everyone[:, self.held :] if mask is None else mask], dim=1)

    def extended(self, n: int, layers: tuple[LayerCache, ...], mask: Tensor | None) -> "AttentionCache":
        """The cache after `n` more tokens; `layers` and `mask` already hold them."""
        counts = {"position": self.position + n, "fresh": self.fresh + n, "held": self.held + n}
        return replace(self, **counts, layers=layers, mask=mask)

    def evict(self, eviction: Eviction) -> "AttentionCache":
        """The cache after a sleep: empty (`hard`), or the newest L-1 tokens (`sliding`)."""
        if typed(Eviction, eviction, "eviction") == "hard":
            return AttentionCache(self.capacity)
        kept = min(self.held, self.capacity - 1)
        layers = tuple(entry and entry.keep(kept) for entry in self.layers)
        mask = None if self.mask is None else self.mask[:, self.held - kept :]
        return replace(self, fresh=0, held=kept, layers=layers, mask=mask)

    def map(self, change: Callable[[Tensor], Tensor]) -> "AttentionCache":
        """The cache with `change` applied to every tensor, the mask last."""
        layers = tuple(entry and entry._make(map(change, entry)) for entry in self.layers)
        return replace(self, layers=layers, mask=None if self.mask is None else change(self.mask))

    @property
    def nbytes(self) -> int:
        """Bytes of all entries, without the mask."""
        return sum(entry.nbytes for entry in self.layers for entry in entry or ())
