"""The configuration of a model: its fields, what they may hold, and the sizes that follow from them."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from lmsleep.checks import check_integer, check_types, require

MAX_SIZE, MAX_DEPTH = 2**31 - 1, 4096  # a larger value is a mistake
BetweenPasses = Literal["carry", "reset", "embed", "cut_h", "cut"]
Check = tuple[str, object, object, str]  # field, its value, whether it is allowed, the rule


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and options of a stack of blocks that mix attention and fast weights, from which every mixer is built.

    Args:
        vocab_size: V. None until a task sets it.
        d_model: D, width of the residual stream.
        pattern: one letter a block: A attention, W sliding attention, G gated delta, M Mamba-2, J Jet, and
            those of `register_mixer`. Lower case: a block without MLP.
        window_size: L, tokens that attention can see together. None until a task sets it.
        n_heads: attention heads, and fast-weight heads unless `fast_heads` says otherwise.
        sliding_window: visible tokens that a token of a W block sees, itself included.
        n_kv_heads: key/value heads (grouped-query attention); None: n_heads.
        head_dim: width of an attention head; None: d_model / n_heads.
        fast_heads, fast_key_dim, fast_value_dim: heads H and sizes K, V of a fast-weight state; None: as attention.
        fast_key_heads: heads of q and k in G blocks, each for H / fast_key_heads states; None: H.
        conv_size: width of the short convolution of fast-weight layers.
        allow_neg_eigval: beta in (0, 2) instead of (0, 1), so that a write can flip a direction.
        decay_rates: range of the initial decay rates A: a token multiplies the state by exp(-A dt), dt from 0.001 to
            0.1. None: (0, 16) for gated delta and Jet, (1, 16) for Mamba-2.
        delta: add the delta correction to Mamba-2's update.
        rule_options: options of mixers of `register_mixer`, by letter and name: `{H: {decay: 0.9}}`.
        mlp_dim: hidden width of the SwiGLU MLP; None: 8/3 d_model, rounded up to a multiple of 16.
        rope_theta: base of the rotary positions.
        rope_scaling: (factor, low, high, length) of Llama 3: frequencies of fewer than `low` turns in `length` tokens
            are divided by `factor`, those of more than `high` kept, others interpolated.
        rotary_dim: channels of a head that are rotated: j and j + head_dim / 2 for j < rotary_dim / 2; None: all.
        attention_bias: biases on q, k, v (Qwen2).
        attention_gate: multiply the output of attention by sigmoid(W_g x) (Qwen3-Next).
        qk_norm: an RMS norm on each head of q and k before the rotation (Qwen3).
        norm_eps: epsilon of the RMS norms.
        fast_norm_eps: epsilon of the norm inside a Jet layer; None: norm_eps.
        sandwich_norm: a second norm after the mixer and the MLP of every block that has an MLP (Ouro).
        norm_between_passes: every pass ends with the final norm, and the next starts from its output (Ouro).
        between_passes: what a pass of a sleep starts from, see `lmsleep.model.hybrid.BETWEEN_PASSES`; `carry` is
            Algorithm 1, others are ablations.
        loop: (first, last + 1) of the blocks that a sleep repeats; None: all.
        tie_embeddings: the output projection is the embedding.
        embedding_std: initial standard deviation of the embeddings; that of the output projection is 0.02.
        zero_init: output projections of mixers and MLPs start at zero, so that every block starts as the identity.

    Raises:
        ValueError: if a value is out of range.
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
    fast_key_heads: int | None = None
    conv_size: int = 4
    allow_neg_eigval: bool = False
    decay_rates: tuple[float, float] | None = None
    delta: bool = False
    rule_options: dict[str, dict[str, Any]] | None = None
    mlp_dim: int | None = None
    rope_theta: float = 10_000.0
    rope_scaling: tuple[float, float, float, float] | None = None
    rotary_dim: int | None = None
    attention_bias: bool = False
    attention_gate: bool = False
    qk_norm: bool = False
    norm_eps: float = 1e-6
    fast_norm_eps: float | None = None
    sandwich_norm: bool = False
    norm_between_passes: bool = False
    between_passes: BetweenPasses = "carry"
    loop: tuple[int, int] | None = None
    tie_embeddings: bool = False
    embedding_std: float = 0.02
    zero_init: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        for field, value, allowed, rule in self.checks():
            require(allowed, f"{field} {rule}", value)
        try:  # a copy, as config.json gives it back: lists in place of tuples
            object.__setattr__(self, "rule_options", json.loads(json.dumps(self.rule_options)))
        except TypeError as error:
            raise ValueError(f"rule_options must be what JSON can hold, got {self.rule_options!r}") from error

    def checks(self) -> Iterator[Check]:
        """What the values must fulfil, in an order in which each check may rely on those before it."""
        for name in _SIZES:
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1, MAX_SIZE)
        yield "pattern", self.depth, self.depth <= MAX_DEPTH, f"must have at most {MAX_DEPTH} blocks"
        yield from self._checks_of_numbers()
        yield from self._checks_of_heads()
        yield from self._checks_of_positions()
        yield from self._checks_of_passes()

    def _checks_of_numbers(self) -> Iterator[Check]:
        for name in ("norm_eps", "fast_norm_eps", "rope_theta"):
            value = getattr(self, name)
            yield name, value, value is None or 0 < value < math.inf, "must be more than 0 and finite"
        yield "embedding_std", self.embedding_std, 0 <= self.embedding_std < math.inf, "must be 0 or more and finite"
        rates = self.decay_rates
        rising = rates is None or (len(rates) == 2 and 0 <= rates[0] <= rates[1] and 1e-9 <= rates[1] <= 1e9)
        yield "decay_rates", rates, rising, "must be two rising numbers from 0 up, the second from 1e-9 to 1e9, or None"

    def _checks_of_heads(self) -> Iterator[Check]:
        letters = set(self.pattern.upper())
        slides = "W" not in letters or self.sliding_window is not None
        yield "sliding_window", self.sliding_window, slides, f"must be set for the W blocks of pattern {self.pattern!r}"
        divides = self.head_dim is not None or self.d_model % self.n_heads == 0
        yield "n_heads", self.n_heads, divides, f"must divide d_model={self.d_model} unless head_dim is given"
        grouped = self.n_heads % self.kv_heads == 0
        yield "n_kv_heads", self.n_kv_heads, grouped, f"must divide n_heads={self.n_heads}"
        heads = self.fast_heads or self.n_heads
        divides = letters <= set("AW") or self.fast_key_dim is not None or self.d_model % heads == 0
        yield "fast_heads", heads, divides, f"must divide d_model={self.d_model} unless fast_key_dim is given"
        grouped = heads % (self.fast_key_heads or heads) == 0
        yield "fast_key_heads", self.fast_key_heads, grouped, f"must divide fast_heads={heads}"

    def _checks_of_positions(self) -> Iterator[Check]:
        width, rotated, scaling = self.attention_head_dim, self.rotary_dim, self.rope_scaling
        yield "head_dim", width, width % 2 == 0, "must be even for rotary positions"
        fits = rotated is None or (rotated % 2 == 0 and rotated <= width)
        yield "rotary_dim", rotated, fits, f"must be even and at most head_dim={width}"
        stretches = scaling is None or _stretches(*scaling)
        yield "rope_scaling", scaling, stretches, "must be (factor >= 1, low < high, length), all above 0, or None"

    def _checks_of_passes(self) -> Iterator[Check]:
        loop = self.loop
        within = loop is None or (len(loop) == 2 and 0 <= loop[0] < loop[1] <= self.depth)
        yield "loop", loop, within, f"must be (first, last + 1) within the {self.depth} blocks"
        first, last = self.loop_range
        closed = not self.norm_between_passes or last == self.depth
        yield "loop", loop, closed, "must reach the last block with norm_between_passes"
        opened = self.between_passes == "carry" or first == 0
        yield "loop", loop, opened, f"must start at the first block with between_passes={self.between_passes!r}"

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.pattern)

    @property
    def loop_range(self) -> tuple[int, int]:
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

    def for_task(self, vocab_size: int, window_size: int, row: int | None = None) -> Self:
        """The configuration with the sizes of a task. A larger vocabulary is kept (pretrained models pad theirs), and
        so is a window of at least `row` tokens: full attention, no eviction. Raises ValueError if the configuration has
        another window or a smaller vocabulary."""
        window = self.window_size or window_size
        whole = f" (or {row} and more: a whole row)" if row else ""
        rule = f"window_size of the model must be the task's {window_size}{whole} or left out"
        require(window == window_size or (row is not None and window >= row), rule, window)
        rule = f"vocab_size of the model must be at least the task's {vocab_size} or left out"
        require(self.vocab_size is None or self.vocab_size >= vocab_size, rule, self.vocab_size)
        return replace(self, vocab_size=self.vocab_size or vocab_size, window_size=window)

    def layers(self) -> list[tuple[str, bool]]:
        """(mixer letter, has an MLP) of each block."""
        return [(letter.upper(), letter.isupper()) for letter in self.pattern]

    def to_dict(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


_SIZES = (
    *("vocab_size", "window_size", "d_model", "n_heads", "conv_size", "sliding_window", "n_kv_heads", "head_dim"),
    *("fast_heads", "fast_key_dim", "fast_value_dim", "fast_key_heads", "mlp_dim", "rotary_dim"),
)


def _stretches(*scaling: float) -> bool:
    """Whether these are (factor, low, high, length) as `rope_scaling` takes them."""
    if len(scaling) != 4 or max(scaling) == math.inf:
        return False
    factor, low, high, length = scaling
    return factor >= 1 and 0 < low < high and length > 0
