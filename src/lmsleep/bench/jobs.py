"""What our kernels do and those of libraries do too: inputs at a run's sizes, the definition, and ways to compute it.

A way of a library names what it imports ("module:function"), takes that before the inputs, and needs a GPU; a library
is imported only when it is used, and none has to be installed.
"""

# Inputs come as sequences, which the types of functions with names for them do not take.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.model import HybridConfig
from lmsleep.model.linear import _Split
from lmsleep.ops import add_norm, conv_tail, delta_layer, gated_delta, short_conv, swiglu, window_attention
from lmsleep.ops.add_norm.naive import add_norm_naive
from lmsleep.ops.delta_layer.composed import l2_normalise
from lmsleep.ops.delta_layer.naive import delta_layer_naive
from lmsleep.ops.gated_delta.naive import gated_delta_naive
from lmsleep.ops.short_conv.naive import short_conv_naive
from lmsleep.ops.swiglu import swiglu_naive
from lmsleep.ops.window_attention.naive import window_attention_naive
from lmsleep.ops.window_attention.sdpa import attend, rotate
from lmsleep.sleep import IGNORE

Run = Callable[..., Sequence[Tensor]]
EPS = 1e-6
LIGER, FLA, FLASH, MAMBA, CONV = "liger-kernel", "flash-linear-attention", "flash-attn", "mamba-ssm", "causal-conv1d"


class Way(NamedTuple):
    """How a library, or we, compute it: `run` takes what `addresses` name, and then the inputs."""

    run: Run
    addresses: tuple[str, ...] = ()

    def load(self) -> Run:
        """What takes inputs alone. Raises ImportError where the library is not installed."""
        parts = [address.split(":") for address in self.addresses]
        found = [getattr(import_module(module), name) for module, name in parts]
        return lambda *inputs: self.run(*found, *inputs)


def by(run: Run, *addresses: str) -> Way:
    return Way(run, addresses)


class Job(NamedTuple):
    """One thing to compute.

    Attributes:
        make: draws inputs, all of which get gradients.
        definition: from inputs to outputs, as every way.
        torch: by torch's own operations, for a compiler too.
        ways: ours, if we have a kernel for it, and those of libraries.
    """

    make: Callable[[], list[Tensor]]
    definition: Run
    torch: Run
    ways: dict[str, Way]


class Subject(NamedTuple):
    """The sizes of a run, where and in what dtype its products are made."""

    config: HybridConfig
    rows: int
    device: torch.device
    dtype: torch.dtype

    @property
    def tokens(self) -> tuple[int, int]:
        """Rows, and tokens of a window."""
        return self.rows, self.config.window_size or 1

    def draw(self, *shape: int, dtype: torch.dtype | None = None, around: float = 0.0, spread: float = 1.0) -> Tensor:
        """Normal numbers, in the dtype of products unless another is asked for."""
        drawn = around + spread * torch.randn(*shape, device=self.device)
        return drawn.to(dtype or self.dtype).requires_grad_()

    def weight(self, *shape: int) -> Tensor:
        """Numbers near one in float32, of which some libraries multiply gradients in place, again and again."""
        return self.draw(*shape, dtype=torch.float32, around=1.0, spread=0.1)


def norm(s: Subject, stream: torch.dtype | None = None, summed: bool = True) -> Job:
    """A sum and its norm, or the norm alone: the residual stream in dtype `stream`, all else in that of products."""

    def ours(backend: str | None = None) -> Run:
        return lambda h, *y, w: add_norm(h, *y or (None,), w, EPS, s.dtype, backend)[1 - summed :]

    def liger(f: Any, h: Tensor, *y: Tensor, w: Tensor) -> Sequence[Tensor]:
        if not y:
            return [f.apply(h, w, EPS, 0.0, "llama", True, None)]
        x, total = f.apply(y[0].to(h.dtype), h, w, EPS, 0.0, "llama", False)  # it takes both in one dtype
        return total, x.to(y[0].dtype)

    def others(f: Any, h: Tensor, *y: Tensor, w: Tensor, **more: Any) -> Sequence[Tensor]:
        if not y:
            return [f(h, w, None, eps=EPS, **more)]
        more |= {"prenorm": True, "residual_in_fp32": h.dtype == torch.float32}
        return f(y[0], w, None, residual=h, eps=EPS, **more)[::-1]

    def last(run: Run) -> Run:
        return lambda *inputs: run(*inputs[:-1], w=inputs[-1])

    D, rms = s.config.d_model, partial(others, is_rms_norm=True)
    return Job(
        lambda: [s.draw(*s.tokens, D, dtype=stream), *([s.draw(*s.tokens, D)] if summed else []), s.weight(D)],
        last(lambda h, *y, w: add_norm_naive(h, *y or (None,), w, EPS, h.dtype)[1 - summed :]),
        last(ours("torch")),
        {
            "ours": by(last(ours())),
            LIGER: by(last(liger), f"liger_kernel.ops:Liger{'FusedAdd' * summed}RMSNormFunction"),
            FLA: by(last(others), "fla.modules.norm.layernorm:rms_norm"),
            FLASH: by(last(rms), "flash_attn.ops.triton.layer_norm:layer_norm_fn"),
            MAMBA: by(last(rms), "mamba_ssm.ops.triton.layer_norm:layer_norm_fn"),
        },
    )


def activation(s: Subject) -> Job:
    """silu(gate) * up of two projections that one product made, (B, n, 2 F), and so with one gradient."""
    hidden, fused = s.config.mlp_hidden, "liger_kernel.ops:LigerFusedGateUpSiLUMulFunction"

    def split(x: Tensor) -> Sequence[Tensor]:
        return _Split.apply(x, [hidden, hidden])  # pyright: ignore[reportReturnType]

    return Job(
        lambda: [s.draw(*s.tokens, 2 * hidden)],
        lambda x: [swiglu_naive(*x.chunk(2, -1))],
        lambda x: [swiglu(*x.chunk(2, -1), backend="torch")],
        {
            "ours": by(lambda x: [swiglu(*split(x))]),
            LIGER: by(lambda f, x: [f.apply(x.flatten(0, 1)).unflatten(0, s.tokens)], fused),
            f"{LIGER}, two": by(lambda f, x: [f.apply(*split(x))], "liger_kernel.ops:LigerSiLUMulFunction"),
            FLA: by(lambda f, x: [f(*split(x))], "fla.modules.activations.ops:swiglu"),
        },
    )


def convolution(s: Subject) -> Job:
    """The short convolution of q, k and v with SiLU, of a window with none before it."""
    (H, K, V), taps = s.config.fast_shape, s.config.conv_size
    columns = H * (2 * K + V)
    fla = "fla.modules.causal_conv1d.ops:causal_conv1d"
    return Job(
        lambda: [s.draw(*s.tokens, columns), s.draw(columns, taps, dtype=torch.float32)],
        lambda x, w: [short_conv_naive(x, w, None, None, "silu")],
        lambda x, w: [short_conv(x, w, backend="torch")],
        {
            FLA: by(lambda f, x, w: [f(x, w, activation="silu")[0]], fla),
            CONV: by(lambda _, x, w: [short_conv(x, w, backend="causal_conv1d")], "causal_conv1d:causal_conv1d_fn"),
        },
    )


def l2_norm(s: Subject) -> Job:
    """q or k divided by its length."""
    H, K, _ = s.config.fast_shape
    return Job(
        lambda: [s.draw(*s.tokens, H, K)],
        lambda x: [x / (x.square().sum(-1, keepdim=True) + EPS).sqrt()],
        lambda x: [l2_normalise(x)],
        {FLA: by(lambda f, x: [f(x)], "fla.modules.norm.l2norm:l2norm")},
    )


FLA_GATED = "fla.modules.norm.fused_norm_gate:rms_norm_gated"


def gated_norm(s: Subject) -> Job:
    """The norm behind the gated delta rule: rms_norm(o) * weight * silu(gate)."""
    H, _, V = s.config.fast_shape
    mamba = "mamba_ssm.ops.triton.layernorm_gated:rmsnorm_fn"
    return Job(
        lambda: [s.draw(*s.tokens, H, V), s.draw(*s.tokens, H, V), s.weight(V)],
        lambda o, gate, w: [add_norm_naive(o, None, w, EPS, o.dtype)[1] * swiglu_naive(gate, torch.ones_like(gate))],
        lambda o, gate, w: [F.rms_norm(o.to(w.dtype), w.shape, w, EPS).to(o.dtype) * F.silu(gate)],
        {
            FLA: by(lambda f, o, gate, w: [f(o, gate, w, None, eps=EPS)], FLA_GATED),
            MAMBA: by(lambda f, o, gate, w: [f(o, w, None, z=gate, eps=EPS)], mamba),
        },
    )


def angles(s: Subject) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """cos and sin (n, K / 2) of some positions, in float32 and in the dtype of products, which libraries want."""
    at = torch.rand(s.tokens[1], s.config.attention_head_dim // 2, device=s.device) * 2 * torch.pi
    return (at.cos(), at.sin()), (at.cos().to(s.dtype), at.sin().to(s.dtype))


# q and k (B, n, H, K), cos and sin -> both turned.
def _turn_torch(q: Tensor, k: Tensor, at: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [rotate(x.transpose(1, 2), at).transpose(1, 2) for x in (q, k)]


def _turn_both(f: Any, q: Tensor, k: Tensor, at: tuple[Tensor, Tensor]) -> list[Tensor]:
    cos, sin = (torch.cat([x, x], -1)[None] for x in at)
    return [x.transpose(1, 2) for x in f.apply(q.transpose(1, 2), k.transpose(1, 2), cos, sin)]


def _turn_each(f: Any, q: Tensor, k: Tensor, at: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [f(x, *at) for x in (q, k)]


TURNS = {
    LIGER: (_turn_both, "liger_kernel.ops:LigerRopeFunction"),
    FLA: (_turn_each, "fla.modules.rotary.ops:rotary_embedding"),
    FLASH: (_turn_each, "flash_attn.layers.rotary:apply_rotary_emb"),
}


def rotary(s: Subject) -> Job:
    """Rotary positions of q and k (B, n, H, K)."""
    heads, (at, narrow) = (s.config.n_heads, s.config.attention_head_dim), angles(s)

    def way(turn: Any, address: str) -> Way:
        return by(lambda f, q, k: turn(f, q, k, narrow), address)

    return Job(
        lambda: [s.draw(*s.tokens, *heads), s.draw(*s.tokens, *heads)],
        lambda q, k: _turn_torch(q, k, at),
        lambda q, k: _turn_torch(q, k, at),
        {library: way(*turn) for library, turn in TURNS.items()},
    )


def attention(s: Subject) -> Job:
    """Attention inside a window with rotary positions; libraries turn, and torch attends."""
    K, (at, narrow) = s.config.attention_head_dim, angles(s)

    def way(turn: Any, address: str) -> Way:
        def run(f: Any, q: Tensor, k: Tensor, v: Tensor) -> Sequence[Tensor]:
            q, k, v = (x.unflatten(-1, (-1, K)) for x in (q, k, v))
            q, k, v = (x.transpose(1, 2) for x in (*turn(f, q, k, narrow), v))
            return [attend(q, k, v, None).transpose(1, 2).flatten(2)]

        return by(run, address)

    return Job(
        lambda: [s.draw(*s.tokens, s.config.n_heads * K) for _ in range(3)],
        lambda q, k, v: [window_attention_naive(q, k, v, at, None)],
        lambda q, k, v: [window_attention(q, k, v, at, backend="torch")],
        {"ours": by(lambda q, k, v: [window_attention(q, k, v, at)])}
        | {f"{library}, sdpa": way(*turn) for library, turn in TURNS.items()},
    )


def delta(s: Subject) -> Job:
    """The gated delta rule of a window, from a state to a state."""
    H, K, V = s.config.fast_shape

    def make() -> list[Tensor]:
        q, k = (F.normalize(s.draw(*s.tokens, H, K), dim=-1) for _ in range(2))
        log_decay = -0.3 * s.draw(*s.tokens, H, dtype=torch.float32).abs()
        beta = s.draw(*s.tokens, H, dtype=torch.float32).sigmoid()
        state = s.draw(s.rows, H, K, V, dtype=torch.float32)
        return [*(x.detach().requires_grad_() for x in (q, k, s.draw(*s.tokens, H, V), log_decay, beta)), state]

    def through(backend: str | None) -> Run:
        def run(*inputs: Tensor) -> Sequence[Tensor]:
            *those, state = inputs
            o, after = gated_delta(*(x.transpose(1, 2) for x in those), state, backend=backend)
            return o.transpose(1, 2), after

        return run

    def definition(*inputs: Tensor) -> Sequence[Tensor]:
        *those, state = inputs
        q, k, v, log_decay, beta = (x.transpose(1, 2) for x in those)
        o, after = gated_delta_naive(q, k, v, log_decay, beta, state)
        return o.transpose(1, 2), after

    fla = "lmsleep.ops.gated_delta.fla:gated_delta_fla"
    ways = {"ours": by(through(None)), FLA: by(lambda _, *inputs: through("fla")(*inputs), fla)}
    return Job(make, definition, through("torch"), ways)


def layer(s: Subject) -> Job:
    """All of a gated delta layer between its two products; fla's parts stand around our delta rule."""
    (H, K, V), taps = s.config.fast_shape, s.config.conv_size
    columns, wide = H * (2 * K + V), torch.float32

    def make() -> list[Tensor]:
        weights = [s.draw(columns, taps, dtype=wide), s.draw(H, dtype=wide), s.draw(H, dtype=wide), s.weight(V)]
        left = s.draw(s.rows, taps - 1, columns)
        return [s.draw(*s.tokens, 2 * H * (K + V + 1)), *weights, s.draw(s.rows, H, K, V, dtype=wide), left]

    def definition(*inputs: Tensor) -> Sequence[Tensor]:
        return delta_layer_naive(*inputs, None, False, 1.0, EPS)

    def parts(
        conv: Any, unit: Any, decay: Any, norm: Any, projected: Tensor, taps: Tensor, A_log: Tensor, dt_bias: Tensor,
        weight: Tensor, state: Tensor, left: Tensor,
    ) -> Sequence[Tensor]:  # fmt: skip
        inputs, gate, a, b = projected.split([columns, H * V, H, H], dim=-1)
        mixed, _ = conv(inputs, taps, initial_state=F.pad(left.mT, (1, 0)), activation="silu")
        q, k, v = (x.unflatten(-1, (H, -1)) for x in mixed.split([H * K, H * K, H * V], dim=-1))
        by_head = (x.transpose(1, 2) for x in (unit(q), unit(k), v, decay(a, A_log, dt_bias), b.float().sigmoid()))
        o, state = gated_delta(*by_head, state)
        y = norm(o.transpose(1, 2), gate.unflatten(-1, (H, V)), weight, None, eps=EPS)
        return y.flatten(2), state, conv_tail(inputs, left, taps.shape[-1])

    fla = ("fla.modules.causal_conv1d.ops:causal_conv1d", "fla.modules.norm.l2norm:l2norm")
    gate = "fla.ops.gated_delta_rule.gate:fused_gdn_gate"
    return Job(
        make,
        definition,
        lambda *inputs: delta_layer(*inputs, backend="torch"),
        {"ours": by(lambda *inputs: delta_layer(*inputs)), FLA: by(parts, *fla, gate, FLA_GATED)},
    )


def cross_entropy(s: Subject) -> Job:
    """The loss of a window's tokens; liger-kernel leaves the gradient in the place of the logits."""
    n, words = s.rows * s.tokens[1], s.config.vocab_size or 2
    targets = torch.randint(words, (n,), device=s.device)

    def reduced(f: Any, x: Tensor) -> Sequence[Tensor]:
        return [f(x, targets, ignore_index=IGNORE)[0].sum() / (targets != IGNORE).sum()]

    def plain(x: Tensor) -> Sequence[Tensor]:
        return [F.cross_entropy(x.float(), targets, ignore_index=IGNORE)]

    liger = "liger_kernel.ops:LigerCrossEntropyFunction"
    return Job(
        lambda: [s.draw(n, words)],
        plain,
        plain,
        {
            FLA: by(reduced, "fla.modules.fused_cross_entropy.ops:cross_entropy_loss"),
            FLASH: by(reduced, "flash_attn.ops.triton.cross_entropy:cross_entropy_loss"),
            LIGER: by(lambda f, x: f.apply(x, targets, None, IGNORE)[:1], liger),
        },
    )


JOBS: dict[str, Callable[[Subject], Job]] = {
    "add + norm in float32": partial(norm, stream=torch.float32),
    "add + norm": norm,
    "norm": partial(norm, summed=False),
    "activation": activation,
    "layer": layer,
    "convolution": convolution,
    "L2 norm": l2_norm,
    "gated norm": gated_norm,
    "attention": attention,
    "rotary": rotary,
    "delta rule": delta,
    "cross entropy": cross_entropy,
}
