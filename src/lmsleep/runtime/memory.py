"""What a session holds between two tokens, as a value: reading and sleeping return a new one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmsleep.memory import AttentionCache, Eviction, FastWeights
from lmsleep.model import HybridLM, Run, Wake
from lmsleep.sleep import OnOverflow, sleep_window


@dataclass(frozen=True)
class Memory:
    """The memory of rows of a batch that stand at the same place of their window.

    A sleep needs more of the window than S and the cache: `core`, where its passes start, and what was there before the
    window, since its passes see the tokens of `past`, and blocks behind the loop rewind to `before`.

    Args:
        rows: which rows of the batch, rising.
        S, cache: fast weights and attention cache after the last token.
        before, past: the same when the window began.
        core: outputs of the looped blocks over the window so far, in the pieces (B, n, D) in which it was read.
    """

    rows: tuple[int, ...]
    S: FastWeights
    cache: AttentionCache
    before: FastWeights
    past: AttentionCache
    core: tuple[Tensor, ...] = ()

    @classmethod
    def start(cls, model: HybridLM, batch_size: int) -> "Memory":
        """The memory of a whole batch before the first token."""
        S, cache = model.init_fast_weights(batch_size), model.init_cache()
        return cls(tuple(range(batch_size)), S, cache, S, cache)

    @property
    def phase(self) -> tuple[int, ...]:
        """Rows of equal phase can be read together."""
        return self.cache.fresh, self.cache.held, self.cache.position, self.past.held

    def read(self, model: HybridLM, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, "Memory"]:
        """The wake pass over tokens (B, n) that fit into the window: h (B, n, D) and the memory after them."""
        wake = model.wake(tokens, self.S, self.cache, mask)
        return wake.h, replace(self, S=wake.S, cache=wake.cache, core=(*self.core, wake.core))

    def sleep(self, model: HybridLM, on_overflow: OnOverflow, eviction: Eviction, run: Run | None = None) -> "Memory":
        """The memory after a sleep on the window so far and the eviction that ends it; `run` as in `sleep_window`."""
        core = torch.cat(self.core, dim=1)
        mask = None if self.cache.mask is None else self.cache.mask[:, self.cache.held - self.cache.fresh :]
        wake = Wake(core, core, self.before, self.S, self.past, self.cache, mask)
        S = sleep_window(model, wake, on_overflow, run)
        # Without a copy, the kept tokens would hold on to the buffer of the whole window.
        cache = self.cache.evict(eviction).map(torch.clone)
        return Memory(self.rows, S, cache, S, cache)

    def tensors(self) -> dict[str, Tensor]:
        """Everything held, batch first: S, before, the two caches, the window's core in one piece."""
        weights = {"S": self.S, "before": self.before}
        named = {f"{name}.{i}": state for name, S in weights.items() for i, state in enumerate(S.states)}
        for name, cache in (("cache", self.cache), ("past", self.past)):
            named |= {f"{name}.{i}.{j}": x for i, left in enumerate(cache.layers) for j, x in enumerate(left or ())}
            named |= {} if cache.mask is None else {f"{name}.mask": cache.mask}
        return named | ({"core": torch.cat(self.core, dim=1)} if self.core else {})

    def with_tensors(self, tensors: Iterable[Tensor], rows: Iterable[int]) -> "Memory":
        """A memory of the same form with others in place of its `tensors()`, in their order, for these rows."""
        left = iter(tensors)
        S, before = (FastWeights(tuple(next(left) for _ in weights.states)) for weights in (self.S, self.before))
        cache, past = (cache.map(lambda _: next(left)) for cache in (self.cache, self.past))
        return Memory(tuple(rows), S, cache, before, past, tuple(left))

    def take(self, places: Tensor) -> "Memory":
        """The rows at these places."""
        tensors = (tensor[places] for tensor in self.tensors().values())
        return self.with_tensors(tensors, (self.rows[place] for place in places.tolist()))

    def split(self, apart: Sequence[bool]) -> tuple["Memory | None", "Memory | None"]:
        """The rows that are set apart and the others; None if there are none."""
        if all(apart) or not any(apart):
            return (self, None) if all(apart) else (None, self)
        flags = torch.tensor(apart)
        return self.take(flags.nonzero()[:, 0]), self.take((~flags).nonzero()[:, 0])

    def repeat(self, copies: int) -> "Memory":
        """Every row `copies` times, side by side in the batch."""
        repeated = self.take(torch.arange(len(self.rows)).repeat_interleave(copies))
        return replace(repeated, rows=tuple(row * copies + copy for row in self.rows for copy in range(copies)))

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept alive, shared storage counted once."""
        pieces = [*replace(self, core=()).tensors().values(), *self.core]
        storages = [piece.untyped_storage() for piece in pieces]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def regroup(memories: Iterable[Memory]) -> list[Memory]:
    """The same rows in as few memories as possible."""
    phases: dict[tuple[int, ...], list[Memory]] = {}
    for memory in memories:
        phases.setdefault(memory.phase, []).append(memory)
    return [same[0] if len(same) == 1 else _join(same) for same in phases.values()]


def _join(memories: Sequence[Memory]) -> Memory:
    """One memory of several of the same phase."""
    if any(memory.cache.mask is not None for memory in memories):
        memories = [_with_masks(memory) for memory in memories]
    columns = zip(*(memory.tensors().values() for memory in memories), strict=True)
    rows = [row for memory in memories for row in memory.rows]
    joined = memories[0].with_tensors((torch.cat(column) for column in columns), rows)
    return joined.take(torch.tensor(rows).argsort())


def _with_masks(memory: Memory) -> Memory:
    """The same memory with an explicit mask where all tokens count."""
    device = next(iter(memory.tensors().values())).device

    def masked(cache: AttentionCache) -> AttentionCache:
        everyone = torch.ones(len(memory.rows), cache.held, dtype=torch.bool, device=device)
        return replace(cache, mask=everyone if cache.mask is None else cache.mask)

    return replace(memory, cache=masked(memory.cache), past=masked(memory.past))
