"""The gated delta rule over a window in one Triton launch forward and one backward."""

import torch
from torch import Tensor

from lmsleep.ops.gated_delta.window_kernel import triton, window_backward, window_forward
from lmsleep.ops.shapes import padded


def gated_delta_triton(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`gated_delta_naive` on CUDA, with the state and all sums in float32.

    Products run on tensor cores: in bfloat16 or tf32 where v is bfloat16 or float16, else in three tf32 products, which
    have float32's accuracy.
    """
    o, final, _, _ = _forward(q.to(v.dtype), k.to(v.dtype), v, log_decay, beta, state.float())
    return o, final


# Custom ops and not a bare autograd.Function, so that `torch.compile` keeps them as single nodes of its graph.
@torch.library.custom_op("lmsleep::gated_delta_window", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """o, the final state, the states at chunk starts but the first, and the inverse of every chunk's system."""
    (B, H, L, K), V = k.shape, v.shape[-1]
    q, k, v, g, b = _addressable(q, k, v, g, b)
    out = _outputs(q, k, v, g, b, state)
    C, tile = chunk_length(L), _tile(K, V)
    with torch.cuda.device_of(v):
        window_forward[B * H, triton.cdiv(V, tile["BV"])](  # pyright: ignore[reportCallIssue]
            *(q, k, v, g, b, state.contiguous(), *out),
            *(K**-0.5, H, L, K, V),
            *(stride for x in (q, k, v, g, b) for stride in x.stride()[:3]),
            **tile,
            C=C,
            LEVELS=C.bit_length() - 1,
            PRECISION=precision(v),
            CHUNKS=triton.cdiv(L, C),
        )
    return out


@_forward.register_fake
def _outputs(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (B, H, L, K), V = k.shape, v.shape[-1]
    C = chunk_length(L)
    chunks = (L + C - 1) // C
    o = v.new_empty(B, L, H, V).transpose(1, 2)
    starts = state.new_empty(B, H, chunks - 1, K, V)
    return (
        o,
        torch.empty_like(state, memory_format=torch.contiguous_format),
        starts,
        state.new_empty(B, H, chunks, C, C),
    )


@torch.library.custom_op("lmsleep::gated_delta_window_backward", mutates_args=())
def _backward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor,
    starts: Tensor, inverses: Tensor, do: Tensor, dfinal: Tensor,
) -> list[Tensor]:  # fmt: skip
    """dq, dk, dv, dg, db, dstate; all but dv and dstate as one share for each column block of the state."""
    (B, H, L, K), V = k.shape, v.shape[-1]
    q, k, v, g, b, do = _addressable(q, k, v, g, b, do)
    grads = _gradients(q, k, v, g, b, state, starts, inverses, do, dfinal)
    tile = _tile(K, V)
    with torch.cuda.device_of(v):
        window_backward[B * H, triton.cdiv(V, tile["BV"])](  # pyright: ignore[reportCallIssue]
            *(q, k, v, g, b, state.contiguous(), starts, inverses, do, dfinal.contiguous(), *grads),
            *(K**-0.5, B, H, L, K, V),
            *(stride for x in (q, k, v, g, b, do) for stride in x.stride()[:3]),
            **tile,
            C=inverses.shape[-1],
            PRECISION=precision(v),
            CHUNKS=inverses.shape[2],
        )
    return grads


@_backward.register_fake
def _gradients(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor,
    starts: Tensor, inverses: Tensor, do: Tensor, dfinal: Tensor,
) -> list[Tensor]:  # fmt: skip
    (B, H, L, K), V = k.shape, v.shape[-1]
    BV = _tile(K, V)["BV"]
    n = (V + BV - 1) // BV
    wide = [x.new_empty(n, B, L, H, K).transpose(2, 3) for x in (q, k)]
    narrow = [x.new_empty(n, B, L, H).transpose(2, 3) for x in (g, b)]
    dstate = torch.empty_like(state, memory_format=torch.contiguous_format)
    return [*wide, v.new_empty(B, L, H, V).transpose(1, 2), *narrow, dstate]


def _save(ctx, inputs, output) -> None:
    _, _, starts, inverses = output
    ctx.save_for_backward(*inputs, starts, inverses)
    ctx.mark_non_differentiable(starts, inverses)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, do: Tensor | None, dfinal: Tensor | None, *_: None) -> tuple[Tensor, ...]:
    saved = ctx.saved_tensors  # unpacked once: recomputed activations can be taken only once
    v, state = saved[2], saved[5]
    do = torch.zeros_like(v) if do is None else do
    dfinal = torch.zeros_like(state) if dfinal is None else dfinal
    dq, dk, dv, dg, db, dstate = _backward(*saved, do, dfinal)
    dq, dk, dg, db = (x[0] if len(x) == 1 else x.sum(0) for x in (dq, dk, dg, db))
    return dq, dk, dv, dg, db, dstate


_forward.register_autograd(_differentiate, setup_context=_save)


def chunk_length(length: int) -> int:
    """Tokens of a chunk: tensor cores need 16; beyond 32 a chunk's square matrices cost more than the state."""
    return 16 if length <= 16 else 32


def _tile(K: int, V: int) -> dict[str, int]:
    """BK >= K and the columns BV of the state that a program keeps; a larger state gets more warps."""
    BK, BV = padded(K), padded(V)
    BV = min(BV, 64, 8192 // BK)
    return {"BK": BK, "BV": BV, "num_warps": 4 if BK * BV <= 4096 else 8, "num_stages": 1}


def precision(v: Tensor) -> str:
    """How products with operands of v's dtype are made."""
    return {torch.bfloat16: "bf16", torch.float16: "tf32"}.get(v.dtype, "tf32x3")


def _addressable(*tensors: Tensor) -> list[Tensor]:
    """The kernels address (B, H, L) by strides and want the last axis of q, k and v dense."""
    return [x if x.ndim == 3 or x.stride(-1) == 1 else x.contiguous() for x in tensors]
