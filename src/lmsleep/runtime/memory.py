"""The state of a session between two tokens, as a value: reading and sleeping return a new one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmsleep.memory import AttentionCache, FastWeights, check_fast_weights
from lmsleep.model import HybridLM, RunFn, Wake
from lmsleep.sleep import OnOverflow, WindowPass, sleep_window
from lmsleep.windows import Eviction


@dataclass(frozen=True)
class Memory:
    """The state of rows of a batch that are at the same place in their windows.

    Besides S and the cache, a sleep needs `core`, from which its passes start, and the state before the window: its
    passes see the tokens of `past`, and the coda starts from `before`.

    Args:
        rows: numbers of the rows in the batch, ascending.
        S, cache: fast weights and attention cache after the last token.
        before, past: the same before the window.
        core: outputs of the looped blocks over the window so far, in pieces (B, n, D).
    """

    rows: tuple[int, ...]
    S: FastWeights
    cache: AttentionCache
    before: FastWeights
    past: AttentionCache
    core: tuple[Tensor, ...] = ()

    @classmethod
    def start(cls, model: HybridLM, batch_size: int, S: FastWeights | None = None) -> "Memory":
        """The state of a whole batch before the first token; S None: zeros."""
        S, cache = model.init_fast_weights(batch_size) if S is None else S, model.init_cache()
        return cls(tuple(range(batch_size)), S, cache, S, cache)

    @classmethod
    def start_from(cls, model: HybridLM, S: FastWeights) -> list["Memory"]:
        """The state before the first token of a batch whose rows are those of S; none where S has no layers. Raises
        ValueError if S does not fit the model."""
        rows = getattr(S[0], "shape", ())[:1] if isinstance(S, FastWeights) and len(S) else ()
        B = max([*rows, 1])
        check_fast_weights("fast_weights", S, model.init_fast_weights(B))
        return [cls.start(model, B, S.detach().to(model.embedding.weight.device))] if rows else []

    @property
    def phase(self) -> tuple[int, ...]:
        """Rows with equal phase can be read together."""
        return self.cache.fresh, self.cache.held, self.cache.position, self.past.held

    def read(self, model: HybridLM, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, "Memory"]:
        """The wake pass over tokens (B, n) that fit into the window: h (B, n, D) and the new state."""
        wake = model.wake(tokens, self.S, self.cache, mask)
        return wake.h, replace(self, S=wake.S, cache=wake.cache, core=(*self.core, wake.core))

    def sleep(self, model: HybridLM, on_overflow: OnOverflow, eviction: Eviction, run: RunFn | None = None) -> "Memory":
        """The state after a sleep on the window so far, and eviction; `run` as in `Wake`."""
        core = torch.cat(self.core, dim=1)
        mask = None if self.cache.mask is None else self.cache.mask[:, self.cache.held - self.cache.fresh :]
        wake = Wake(core, core, self.before, self.S, self.past, self.cache, mask, run=run)
        S = sleep_window(WindowPass(model, wake), on_overflow)
        # Copied, since views of the kept tokens would keep the whole window in memory.
        cache = self.cache.evict(eviction).map(torch.clone)
        return Memory(self.rows, S, cache, S, cache)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, batch first: S, before, both caches, core in one piece."""
        weights = {"S": self.S, "before": self.before}
        named = {f"{name}.{i}": state for name, S in weights.items() for i, state in enumerate(S.states)}
        for name, cache in (("cache", self.cache), ("past", self.past)):
            named |= {f"{name}.{i}.{j}": x for i, entry in enumerate(cache.layers) for j, x in enumerate(entry or ())}
            named |= {} if cache.mask is None else {f"{name}.mask": cache.mask}
        return named | ({"core": torch.cat(self.core, dim=1)} if self.core else {})

    def with_tensors(self, tensors: Iterable[Tensor], rows: Iterable[int]) -> "Memory":
        """The same structure with other tensors, in the order of `tensors()`, for these rows."""
        rest = iter(tensors)
        S, before = (FastWeights(tuple(next(rest) for _ in weights.states)) for weights in (self.S, self.before))
        cache, past = (cache.map(lambda _: next(rest)) for cache in (self.cache, self.past))
        return Memory(tuple(rows), S, cache, before, past, tuple(rest))

    def select(self, places: Tensor) -> "Memory":
        """The rows with these indices (n,)."""
        tensors = (tensor[places] for tensor in self.tensors().values())
        return self.with_tensors(tensors, (self.rows[place] for place in places.tolist()))

    def split(self, apart: Sequence[bool]) -> tuple["Memory | None", "Memory | None"]:
        """The rows with and without a flag; None if there are none."""
        if all(apart) or not any(apart):
            return (self, None) if all(apart) else (None, self)
        flags = indices(apart)
        return self.select(flags.nonzero()[:, 0]), self.select((~flags).nonzero()[:, 0])

    @property
    def nbytes(self) -> int:
        """Bytes of all storage, shared storage counted once."""
        pieces = [*replace(self, core=()).tensors().values(), *self.core]
        storages = [piece.untyped_storage() for piece in pieces]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def indices(values: Sequence[int]) -> Tensor:
    """A tensor (n,) that selects rows on any device, whatever torch's default device is."""
    return torch.tensor(values, device="cpu")


def regroup(memories: Iterable[Memory]) -> list[Memory]:
    """Joins memories of equal phase."""
    phases: dict[tuple[int, ...], list[Memory]] = {}
    for memory in memories:
        phases.setdefault(memory.phase, []).append(memory)
    return [same[0] if len(same) == 1 else _join(same) for same in phases.values()]


def _join(memories: Sequence[Memory]) -> Memory:
    if any(memory.cache.mask is not None for memory in memories):
        memories = [_with_masks(memory) for memory in memories]
    columns = zip(*(memory.tensors().values() for memory in memories), strict=True)
    rows = [row for memory in memories for row in memory.rows]
    joined = memories[0].with_tensors((torch.cat(column) for column in columns), rows)
    return joined.select(indices(rows).argsort())


def _with_masks(memory: Memory) -> Memory:
    """The same memory with explicit masks."""
    device = next(iter(memory.tensors().values())).device

    def masked(cache: AttentionCache) -> AttentionCache:
        everyone = torch.ones(len(memory.rows), cache.held, dtype=torch.bool, device=device)
        return replace(cache, mask=everyone if cache.mask is None else cache.mask)

    return replace(memory, cache=masked(memory.cache), past=masked(memory.past))
