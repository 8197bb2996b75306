"""Comparisons of norms, activations and the loss."""

# Inputs come as sequences, which the types of functions with names for them do not take.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.job import EPS, FLA, FLA_GATED, FLASH, LIGER, MAMBA, Job, Run, Subject, by
from lmsleep.model.linear import _Split
from lmsleep.ops import add_norm, swiglu
from lmsleep.ops.add_norm.naive import add_norm_naive
from lmsleep.ops.delta_layer.composed import l2_normalise
from lmsleep.ops.swiglu.naive import swiglu_naive
from lmsleep.windows import IGNORE


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


def l2_norm(s: Subject) -> Job:
    """q or k divided by its length."""
    H, K, _ = s.config.fast_shape
    return Job(
        lambda: [s.draw(*s.tokens, H, K)],
        lambda x: [x / (x.square().sum(-1, keepdim=True) + EPS).sqrt()],
        lambda x: [l2_normalise(x)],
        {FLA: by(lambda f, x: [f(x)], "fla.modules.norm.l2norm:l2norm")},
    )


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
