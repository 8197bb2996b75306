"""The inside of a gated delta layer over a window in one Triton launch forward and two backward."""

from typing import Any

import torch
from torch import Tensor

from lmsleep.ops.backend import WINDOW
from lmsleep.ops.delta_layer.composed import delta_layer_torch
from lmsleep.ops.delta_layer.layer_kernel import layer_backward, layer_forward, triton
from lmsleep.ops.delta_layer.mixed_kernel import mixed_backward
from lmsleep.ops.gated_delta.fused import chunk_length, precision
from lmsleep.ops.shapes import padded

GROUP = 8  # batch rows that one program of `mixed_backward` takes
# What a program holds of a head: all of V, over which the norm goes, and all of K.
MAX_STATE, MAX_SIDE = 64 * 128, 128
MAX_TAPS = 4


def delta_layer_triton(
    projected: Tensor,
    taps: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    weight: Tensor,
    state: Tensor,
    left: Tensor | None,
    mask: Tensor | None,
    per_token: bool,
    beta_scale: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`delta_layer_naive` on CUDA, with the state and all sums in float32; products as in `gated_delta_triton`.

    Windows of more than 128 tokens, heads whose state is larger than 64 x 128 or has a side above 128, and convolutions
    of more than four taps go to the composition, whose ops have kernels of their own.
    """
    BK, BV = padded(state.shape[-2]), padded(state.shape[-1])
    fits = BK * BV <= MAX_STATE and max(BK, BV) <= MAX_SIDE
    if projected.shape[1] > WINDOW or not fits or taps.shape[-1] > MAX_TAPS:
        return delta_layer_torch(projected, taps, A_log, dt_bias, weight, state, left, mask, per_token, beta_scale, eps)
    taps = taps if per_token else taps.mT.contiguous()  # (W, columns): threads beside each other read side by side
    left = left if left is None else left.to(projected.dtype)
    inputs = (projected, taps, A_log, dt_bias, weight, state.float(), left, mask)
    y, final, tail, *_ = _forward(*inputs, per_token, beta_scale, eps)
    return y, final, tail


# Custom ops and not a bare autograd.Function, so that `torch.compile` keeps them as single nodes of its graph.
@torch.library.custom_op("lmsleep::delta_layer", mutates_args=())
def _forward(
    projected: Tensor, taps: Tensor, A_log: Tensor, dt_bias: Tensor, weight: Tensor, state: Tensor,
    left: Tensor | None, mask: Tensor | None, per_token: bool, beta_scale: float, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the final state, the tail, the states at chunk starts but the first, the inverse of every chunk's system."""
    out = _outputs(projected, taps, A_log, dt_bias, weight, state, left, mask, per_token, beta_scale, eps)
    (B, n, _), H = projected.shape, state.shape[1]
    # Half the registers that it would like to have: four programs on a multiprocessor instead of two take 3/4 the time.
    registers = {"maxnreg": 128} if projected.dtype == torch.bfloat16 else {}
    with torch.cuda.device_of(projected):
        layer_forward[(B * H,)](  # pyright: ignore[reportCallIssue]
            *_dense(projected, taps, A_log, dt_bias, weight, state, left, mask),
            *(*out, n, beta_scale, eps),
            **_sizes(projected, taps, state, left, mask, per_token),
            **_tiles(projected, state),
            **registers,
            LEVELS=chunk_length(n).bit_length() - 1,
            BW=triton.next_power_of_2(_width(taps, per_token)),
        )
    return out


@_forward.register_fake
def _outputs(
    projected: Tensor, taps: Tensor, A_log: Tensor, dt_bias: Tensor, weight: Tensor, state: Tensor,
    left: Tensor | None, mask: Tensor | None, per_token: bool, beta_scale: float, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (B, n, _), (H, K, V), C = projected.shape, state.shape[1:], chunk_length(projected.shape[1])
    chunks = (n + C - 1) // C
    operands = torch.bfloat16 if projected.dtype == torch.bfloat16 else torch.float32
    return (
        projected.new_empty(B, n, H * V),
        torch.empty_like(state, memory_format=torch.contiguous_format),
        projected.new_empty(B, _width(taps, per_token) - 1, H * V if per_token else 2 * H * K + H * V),
        state.new_empty(B, H, chunks - 1, K, V),
        state.new_empty(B, H, chunks, C, C, dtype=operands),
    )


@torch.library.custom_op("lmsleep::delta_layer_backward", mutates_args=())
def _backward(
    projected: Tensor, taps: Tensor, A_log: Tensor, dt_bias: Tensor, weight: Tensor, state: Tensor,
    left: Tensor | None, mask: Tensor | None, per_token: bool, beta_scale: float, eps: float,
    starts: Tensor, inverses: Tensor, dy: Tensor, dfinal: Tensor, dtail: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dprojected, dtaps (of static ones the shares of groups of rows), dstate, dleft, and the shares of chunks in the
    gradients of weight, A_log and dt_bias."""
    grads = dprojected, dtaps, dstate, dleft, shares = _gradients(
        *(projected, taps, A_log, dt_bias, weight, state, left, mask, per_token, beta_scale, eps),
        *(starts, inverses, dy, dfinal, dtail),
    )
    (B, n, _), (H, K, V) = projected.shape, state.shape[1:]
    sizes = _sizes(projected, taps, state, left, mask, per_token)
    projected, taps, A_log, dt_bias, weight, state, left, mask = _dense(
        projected, taps, A_log, dt_bias, weight, state, left, mask
    )
    dmixed, tiles = projected.new_empty(B, n, 2 * H * K + H * V), _tiles(projected, state)
    # Three programs on a multiprocessor instead of two take 6/7 of the time, but where a window has several chunks.
    few = projected.dtype == torch.bfloat16 and tiles["CHUNKS"] == 1 and tiles["num_warps"] == 4
    with torch.cuda.device_of(projected):
        layer_backward[(B * H,)](  # pyright: ignore[reportCallIssue]
            *(projected, taps, A_log, dt_bias, weight, state, left, mask, starts, inverses),
            *(dy.contiguous(), dfinal.contiguous(), dprojected, dmixed, dstate, shares, n, beta_scale, eps),
            **sizes,
            **tiles,
            **({"maxnreg": 168} if few else {}),
        )
        mixed_backward[triton.cdiv(B, GROUP), 3 * H](  # pyright: ignore[reportCallIssue]
            *(projected, taps, left, mask, dmixed, projected if dtail is None else dtail.contiguous()),
            *(dprojected, dtaps, dleft, B, n),
            **sizes,
            HAS_DTAIL=dtail is not None,
            R=GROUP,
            num_warps=4,
        )
    return grads


@_backward.register_fake
def _gradients(
    projected: Tensor, taps: Tensor, A_log: Tensor, dt_bias: Tensor, weight: Tensor, state: Tensor,
    left: Tensor | None, mask: Tensor | None, per_token: bool, beta_scale: float, eps: float,
    starts: Tensor, inverses: Tensor, dy: Tensor, dfinal: Tensor, dtail: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (B, H, chunks), V = inverses.shape[:3], state.shape[3]
    groups = (B + GROUP - 1) // GROUP
    return (
        _like(projected),
        _like(taps) if per_token else state.new_empty(groups, *taps.shape),
        _like(state),
        projected.new_empty(0) if left is None else _like(left),
        state.new_empty(B, chunks, H, V + 2),
    )


def _save(ctx, inputs, output) -> None:
    *_, starts, inverses = output
    *tensors, ctx.per_token, ctx.beta_scale, ctx.eps = inputs
    ctx.save_for_backward(*tensors, starts, inverses)
    ctx.mark_non_differentiable(starts, inverses)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, dy: Tensor | None, dfinal: Tensor | None, dtail: Tensor | None, *_: None):
    *inputs, starts, inverses = ctx.saved_tensors  # unpacked once: recomputed activations can be taken only once
    projected, taps, A_log, dt_bias, weight, state, left, _ = inputs
    (B, n, _), (H, _, V) = projected.shape, state.shape[1:]
    dy = projected.new_zeros(B, n, H * V) if dy is None else dy
    dfinal = torch.zeros_like(state) if dfinal is None else dfinal
    dprojected, dtaps, dstate, dleft, shares = _backward(
        *inputs, ctx.per_token, ctx.beta_scale, ctx.eps, starts, inverses, dy, dfinal, dtail
    )
    dtaps = dtaps if ctx.per_token else dtaps.sum(0).to(taps.dtype)
    total = shares.sum((0, 1))  # (H, V + 2)
    dA_log, ddt_bias, dweight = total[:, -2].to(A_log.dtype), total[:, -1].to(dt_bias.dtype), total[:, :-2].sum(0)
    dleft = None if left is None else dleft
    return dprojected, dtaps, dA_log, ddt_bias, dweight.to(weight.dtype), dstate, dleft, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _sizes(
    projected: Tensor, taps: Tensor, state: Tensor, left: Tensor | None, mask: Tensor | None, per_token: bool
) -> dict[str, Any]:
    """What all kernels are compiled for."""
    H, K, V = state.shape[1:]
    flags = {"PER_TOKEN": per_token, "HAS_LEFT": left is not None, "HAS_MASK": mask is not None}
    sizes = {"H": H, "K": K, "V": V, "W": _width(taps, per_token), "P": projected.shape[-1]}
    return sizes | {"BK": padded(K), "BV": padded(V)} | flags


def _tiles(projected: Tensor, state: Tensor) -> dict[str, Any]:
    """How the kernels of the recurrence walk over the window."""
    n, C = projected.shape[1], chunk_length(projected.shape[1])
    warps = 4 if padded(state.shape[2]) * padded(state.shape[3]) <= 4096 else 8
    tiles = {"C": C, "CHUNKS": triton.cdiv(n, C), "PRECISION": precision(projected)}
    return tiles | {"num_warps": warps, "num_stages": 1}


def _dense(
    projected: Tensor, taps: Tensor, A_log: Tensor, dt_bias: Tensor, weight: Tensor, state: Tensor,
    left: Tensor | None, mask: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """The inputs without gaps; anything where there is no left context or mask."""
    kept = projected if mask is None else mask.view(torch.uint8)
    inputs = (projected, taps, A_log, dt_bias, weight, state, projected if left is None else left, kept)
    return [x.contiguous() for x in inputs]


def _width(taps: Tensor, per_token: bool) -> int:
    """W of taps (B, n, H V, W) or (W, columns)."""
    return taps.shape[-1 if per_token else 0]


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
