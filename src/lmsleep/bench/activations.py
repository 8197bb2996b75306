"""Bytes that autograd keeps for the backward, found by running the model on tensors with shapes and no memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lmsleep.memory import AttentionCache, Eviction
from lmsleep.model import HybridConfig, HybridLM


@dataclass(frozen=True)
class Kept:
    """Bytes kept for the backward: `per_row` for each row of the batch, and `fixed` ones whatever the batch (weights
    that autocast has cast, masks)."""

    per_row: int = 0
    fixed: int = 0

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(self.per_row + other.per_row, self.fixed + other.fixed)


class ActivationMeter:
    """Measures one block of each kind of a model, and its output layer, on windows of any length.

    The ops are those that run on a CPU; fused kernels keep at most as much.

    Args:
        config: with vocab_size and window_size set.
        eviction: under `sliding`, a window sees the tokens kept from the one before.
        precision: Lightning's name of it: `32-true`, `bf16-mixed`, `bf16-true`, ...
    """

    def __init__(self, config: HybridConfig, eviction: Eviction, precision: str) -> None:
        # Blocks of the same letter are alike, so one of each will do.
        self.letters = "".join(dict.fromkeys(config.pattern))
        self.config = replace(config, pattern=self.letters, loop=None)
        self.eviction: Eviction = eviction
        self.mixed = precision.endswith("mixed")
        self.dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32

    def blocks(self, n: int, first: bool) -> dict[str, Kept]:
        """For each letter what one pass of its block over n tokens keeps; `first`: there are no tokens before them."""
        return {letter: self._measure(lambda m, b, i=i: self._block(m, i, b, n, first)) for i, letter in self._order()}

    def output(self, n: int) -> Kept:
        """What logits and loss of n tokens keep."""

        def prepare(model: HybridLM, rows: int) -> Callable[[], Any]:
            h = torch.zeros(rows, n, self.config.d_model, dtype=self.dtype, requires_grad=True)
            targets = torch.zeros(rows * n, dtype=torch.long)
            return lambda: F.cross_entropy(model.logits(h).flatten(0, 1).float(), targets)

        return self._measure(prepare)

    def _build(self) -> HybridLM:
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            return self.config.build()
        finally:
            torch.set_default_dtype(default)

    def _order(self) -> list[tuple[int, str]]:
        return list(enumerate(self.letters))

    def _block(self, model: HybridLM, i: int, rows: int, n: int, first: bool) -> Callable[[], Any]:
        S, cache = model.init_fast_weights(rows), model.init_cache()
        if not first and self.eviction == "sliding":
            cache = self._after_a_window(model, rows)
        h = torch.zeros(rows, n, self.config.d_model, dtype=self.dtype, requires_grad=True)
        return lambda: model.blocks.run(i, i + 1, h, S, cache, model.blocks.span(h, cache))

    def _after_a_window(self, model: HybridLM, rows: int) -> AttentionCache:
        with torch.no_grad():
            tokens = torch.zeros(rows, model.window_size, dtype=torch.long)
            return model.wake(tokens, model.init_fast_weights(rows), model.init_cache()).cache.evict(self.eviction)

    def _measure(self, prepare: Callable[[HybridLM, int], Callable[[], Any]]) -> Kept:
        """Two batches tell the part that grows with the batch from the part that does not; one row may need no copies
        where more rows do."""
        with FakeTensorMode():
            model = self._build()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
                two, three = (_kept_bytes(model, prepare(model, rows)) for rows in (2, 3))
        return Kept(three - two, 3 * two - 2 * three)


def _kept_bytes(model: HybridLM, run: Callable[[], Any]) -> int:
    """Bytes of all storages that autograd saves during `run`, without the parameters."""
    kept: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    for p in model.parameters():
        kept.pop(p.untyped_storage()._cdata, None)
    return sum(x.untyped_storage().nbytes() for x in kept.values())
