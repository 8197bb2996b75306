"""The two memories of a model: fast weights, which cross a window boundary, and the attention cache, which eviction
empties. Both are immutable values: every operation returns a new one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lmsleep.checks import check_integer, require

IGNORE = -100  # a target without loss
Eviction = Literal["hard", "sliding"]


def check_eviction(eviction: str) -> None:
    """Raises ValueError unless `eviction` is a known policy."""
    require(eviction in get_args(Eviction), f"eviction must be one of {', '.join(get_args(Eviction))}", eviction)


def check_n_passes(n_passes: int, name: str = "n_passes") -> None:
    """Raises ValueError unless `n_passes` is an integer from 1 to 10,000."""
    check_integer(name, n_passes, 1, 10_000, " (the wake pass counts)")


def check_batch(tokens: Tensor, targets: Tensor | None, mask: Tensor | None, vocab_size: int) -> None:
    """Raises ValueError if tokens, targets or mask are not of one shape (B, T), of another dtype, or not in the
    vocabulary. The last is looked at on a CPU alone: elsewhere a reading would wait for the device."""
    require(isinstance(tokens, Tensor), "tokens must be a tensor", type(tokens).__name__)
    shape = tuple(tokens.shape)
    require(len(shape) == 2 and all(shape), "tokens must be (B, T) with at least one row and one token", shape)
    for name, given in (("tokens", tokens), ("targets", targets), ("mask", mask)):
        if given is None:
            continue
        require(given.shape == shape, f"{name} must have the shape of tokens {shape}", tuple(given.shape))
        kinds = (torch.bool,) if name == "mask" else (torch.int64, torch.int32) if name == "tokens" else (torch.int64,)
        said = "bool" if name == "mask" else "integers (torch.int64)"
        require(given.dtype in kinds, f"{name} must be {said}", given.dtype)
        if name != "mask" and given.device.type == "cpu":
            check_tokens(name, given, vocab_size)


def check_tokens(name: str, tokens: Tensor, vocab_size: int) -> None:
    """Raises ValueError if tokens (B, n) are outside of the vocabulary; `targets` may be `IGNORE`."""
    outside = (tokens < 0) | (tokens >= vocab_size)
    outside = outside & (tokens != IGNORE) if name == "targets" else outside
    if outside.any():
        row, place = outside.nonzero()[0].tolist()
        got = f"{tokens[row, place]} (row {row}, token {place})"
        raise ValueError(f"{name} must lie in the vocabulary 0..{vocab_size - 1}, got {got}")


@dataclass(frozen=True)
class SleepSettings:
    """How a model reads and sleeps; by default it is the plain hybrid, which never sleeps.

    Args:
        n_passes: N, the total number of passes over a window that overflows; the wake pass is the first.
        eviction: `hard` empties the cache after a sleep, `sliding` keeps the newest L - 1 tokens.
        after_loss: a window with loss sleeps too, once its loss is taken, if tokens follow it.
        wake_passes: passes over every window before its outputs are used; a sleep adds N - 1.

    Raises:
        ValueError: if a number of passes is out of range or the eviction is unknown.
    """

    n_passes: int = 1
    eviction: Eviction = "hard"
    after_loss: bool = False
    wake_passes: int = 1

    def __post_init__(self) -> None:
        check_n_passes(self.n_passes)
        check_n_passes(self.wake_passes, "wake_passes")
        check_eviction(self.eviction)


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


class KV(NamedTuple):
    """Keys and values (B, H, m, K) of the m visible tokens, oldest first."""

    keys: Tensor
    values: Tensor

    def keep(self, n: int) -> "KV":
        """The keys and values of the newest n tokens."""
        start = self.keys.shape[2] - n
        return KV(self.keys[:, :, start:], self.values[:, :, start:])


class ConvTail(NamedTuple):
    """The last inputs (B, w, D) of a short convolution, w = its width - 1."""

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
        check_eviction(eviction)
        if eviction == "hard":
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
