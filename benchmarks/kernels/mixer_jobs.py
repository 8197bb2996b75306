"""Comparisons of attention, the delta rule, a gated delta layer and their parts."""

# Inputs come as sequences, which the types of functions with names for them do not take.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.job import CONV, EPS, FLA, FLA_GATED, FLASH, LIGER, Job, Run, Subject, Way, by
from lmsleep.ops import conv_tail, delta_layer, gated_delta, short_conv, window_attention
from lmsleep.ops.delta_layer.naive import delta_layer_naive
from lmsleep.ops.gated_delta.naive import gated_delta_naive
from lmsleep.ops.short_conv.naive import short_conv_naive
from lmsleep.ops.window_attention.naive import window_attention_naive
from lmsleep.ops.window_attention.sdpa import attend, rotate


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
