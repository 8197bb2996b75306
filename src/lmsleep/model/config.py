"""The configuration of a hybrid model: it checks itself, builds the model and predicts its cost."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from lmsleep.memory import check_n_passes

if TYPE_CHECKING:
    from lmsleep.model.hybrid import HybridLM

MIXERS = {"A": "attention", "W": "sliding attention", "G": "gated delta", "M": "Mamba-2", "J": "Jet"}


@dataclass(frozen=True)
class HybridConfig:
    """A stack of blocks that mix attention and fast weights.

    Args:
        vocab_size: V. None until a task sets it.
        d_model: D, width of the residual stream.
        pattern: one letter a block: A attention, W sliding attention, G gated delta, M Mamba-2, J Jet, and
            those of `register_mixer`. Lower case: a block without MLP.
        window_size: L, tokens that attention can see together. None until a task sets it.
        n_heads: attention heads, and fast-weight heads unless `fast_heads` says otherwise.
        sliding_window: tokens that a W block sees, itself included, of those that attention can see.
        n_kv_heads: key/value heads of grouped-query attention; None: n_heads.
        head_dim: width of an attention head; None: d_model / n_heads.
        fast_heads, fast_key_dim, fast_value_dim: heads H and sizes K, V of a fast-weight state; None: as attention.
        conv_size: width of the short convolution of fast-weight layers.
        allow_neg_eigval: beta in (0, 2) instead of (0, 1), so that a write can flip a direction.
        decay_rates: range that the initial decay rates A are drawn from; per token a state keeps exp(-A dt) of itself,
            with steps dt from 0.001 to 0.1. Smaller rates remember longer from the start. None: the rule's own, (0, 16)
            for gated delta and Jet, (1, 16) for Mamba-2.
        delta: extend Mamba-2's update by the delta correction.
        mlp_dim: hidden width of the SwiGLU MLP; None: 8/3 d_model, rounded up to a multiple of 16.
        rope_theta: base of the rotary positions.
        attention_bias: biases on q, k, v (Qwen2).
        norm_eps: epsilon of the RMS norms.
        fast_norm_eps: epsilon of the norm inside a fast-weight layer of rule `jet`; None: norm_eps.
        sandwich_norm: a second norm after the mixer and the MLP of every block that has an MLP (Ouro).
        norm_between_passes: the final norm closes every pass and its output starts the next (Ouro).
        loop: (first, last + 1) of the blocks that a sleep repeats; None: all.
        tie_embeddings: the output projection is the embedding.
        embedding_std: standard deviation of the embeddings at the start; of the output projection it is 0.02.
        zero_init: output projections of mixers and MLPs start at zero, so that every block starts as the identity.

    Raises:
        ValueError: if a value is out of range; the sentence names field, value and what is allowed.
    """

    vocab_size: int | None = None
    d_model: int = 256
    pattern: str = "AGAG"
    window_size: int | None = None
    sliding_window: int | None = None
    n_heads: int = 4
    n_kv_heads: int | None = None
    head_dim: int | None = None
    fast_heads: int | None = None
    fast_key_dim: int | None = None
    fast_value_dim: int | None = None
    conv_size: int = 4
    allow_neg_eigval: bool = False
    decay_rates: tuple[float, float] | None = None
    delta: bool = False
    mlp_dim: int | None = None
    rope_theta: float = 10_000.0
    attention_bias: bool = False
    norm_eps: float = 1e-6
    fast_norm_eps: float | None = None
    sandwich_norm: bool = False
    norm_between_passes: bool = False
    loop: tuple[int, int] | None = None
    tie_embeddings: bool = False
    embedding_std: float = 0.02
    zero_init: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "window_size", "d_model", "n_heads", "conv_size", *_OPTIONAL_SIZES):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        unknown = sorted(set(self.pattern.upper()) - set(MIXERS))
        if unknown or not self.pattern:
            known = ", ".join(f"{letter} ({name})" for letter, name in MIXERS.items())
            raise ValueError(f"pattern must be made of {known}, got {self.pattern!r}")
        if "W" in self.pattern.upper() and self.sliding_window is None:
            raise ValueError(f"sliding_window must be set for the W blocks of pattern {self.pattern!r}, got None")
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ValueError(f"n_heads must divide d_model={self.d_model} unless head_dim is given, got {self.n_heads}")
        heads, writes = self.fast_heads or self.n_heads, set(self.pattern.upper()) - set("AW")
        if writes and self.fast_key_dim is None and self.d_model % heads:
            raise ValueError(f"fast_heads must divide d_model={self.d_model} unless fast_key_dim is given, got {heads}")
        if self.attention_head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.attention_head_dim}")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_kv_heads must divide n_heads={self.n_heads}, got {self.n_kv_heads}")
        if not self.rope_theta > 0:
            raise ValueError(f"rope_theta must be more than 0, got {self.rope_theta}")
        rates = self.decay_rates
        if rates is not None and not (len(rates) == 2 and 0 <= rates[0] <= rates[1] and 0 < rates[1] < math.inf):
            raise ValueError(f"decay_rates must be two rising numbers from 0 up, not both 0, or None, got {rates}")
        if self.loop is not None and not (len(self.loop) == 2 and 0 <= self.loop[0] < self.loop[1] <= self.depth):
            raise ValueError(f"loop must be (first, last + 1) within the {self.depth} blocks, got {self.loop}")
        if self.norm_between_passes and self.looped[1] < self.depth:
            raise ValueError(f"norm_between_passes needs a loop that reaches the last block, got loop={self.loop}")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.pattern)

    @property
    def looped(self) -> tuple[int, int]:
        """(first, last + 1) of the blocks that a sleep repeats."""
        return (0, self.depth) if self.loop is None else (self.loop[0], self.loop[1])

    @property
    def attention_head_dim(self) -> int:
        """Width of an attention head."""
        return self.head_dim or self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Key/value heads of attention."""
        return self.n_kv_heads or self.n_heads

    @property
    def fast_shape(self) -> tuple[int, int, int]:
        """(H, K, V) of a fast-weight state."""
        heads = self.fast_heads or self.n_heads
        key = self.fast_key_dim or self.d_model // heads
        return heads, key, self.fast_value_dim or key

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the MLP."""
        return self.mlp_dim or -(-8 * self.d_model // 3 // 16) * 16

    def for_task(self, vocab_size: int, window_size: int) -> "HybridConfig":
        """The same configuration with the sizes of a task. A larger vocabulary than the task's stays: pretrained models
        pad theirs.

        Raises:
            ValueError: if the configuration already names another window or a smaller vocabulary.
        """
        if self.window_size not in (None, window_size):
            raise ValueError(
                f"window_size of the model must be the task's {window_size} or left out, got {self.window_size}"
            )
        if self.vocab_size is not None and self.vocab_size < vocab_size:
            raise ValueError(
                f"vocab_size of the model must be at least the task's {vocab_size} or left out, got {self.vocab_size}"
            )
        return replace(self, vocab_size=self.vocab_size or vocab_size, window_size=window_size)

    def build(self, device: torch.device | str | None = None) -> "HybridLM":
        """The model with freshly drawn weights.

        Raises:
            ValueError: if vocab_size or window_size is still missing.
        """
        from lmsleep.model.hybrid import HybridLM

        for name in ("vocab_size", "window_size"):
            if getattr(self, name) is None:
                raise ValueError(f"{name} must be set before the model is built, got None")
        with torch.device(device or "cpu"):
            return HybridLM(self)

    def num_params(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.build("meta").parameters())

    def flops_per_token(self, n_passes: int = 1, kind: Literal["forward", "training"] = "forward") -> int:
        """Operations of one token of a full window that is read N times, and of its logits.

        Counted are matrix products, two operations per multiply-add: projections, attention over the whole window (the
        masked half included), and the reads and writes of the fast weights. Element-wise work and the short convolution
        are left out. A sleep repeats the looped blocks N - 1 times and those behind them once. `training` is three
        times `forward`.

        Raises:
            ValueError: if n_passes is below 1.
        """
        check_n_passes(n_passes)
        model = self.build("meta")
        first, last = self.looped
        costs = [layer.flops_per_token(self.window_size or 0) for layer in model.blocks.layers]
        again = (n_passes - 1) * sum(costs[first:last]) + (sum(costs[last:]) if n_passes > 1 else 0)
        total = sum(costs) + again + 2 * self.d_model * (self.vocab_size or 0)
        return total * (3 if kind == "training" else 1)

    def layers(self) -> Iterator[tuple[str, bool]]:
        """(mixer letter, has an MLP) of each block."""
        for letter in self.pattern:
            yield letter.upper(), letter.isupper()

    def to_dict(self) -> dict[str, Any]:
        """All fields by name; `HybridConfig(**fields)` is the same configuration."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


_OPTIONAL_SIZES = (
    "sliding_window",
    "n_kv_heads",
    "head_dim",
    "fast_heads",
    "fast_key_dim",
    "fast_value_dim",
    "mlp_dim",
)
