"""A residual sum with its norm in one Triton launch forward and one backward."""

import torch
from torch import Tensor

from lmsleep.ops.add_norm.kernel import norm_backward, norm_forward, triton

PROGRAMS = 1024  # of the backward, at most: each leaves a share of the weight's gradient; eight fill a multiprocessor


def add_norm_triton(
    h: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`add_norm_naive` on CUDA, computed in float32."""
    s, x = _forward(h, y, weight, eps, dtype)
    return (h if y is None else s), x


# Custom ops and not a bare autograd.Function, so that `torch.compile` keeps them as single nodes of its graph.
@torch.library.custom_op("lmsleep::add_norm", mutates_args=())
def _forward(h: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sum, empty without y, and its norm."""
    s, x = _outputs(h, y, weight, eps, dtype)
    D = h.shape[-1]
    n, tile = h.numel() // D, _tile(D)
    with torch.cuda.device_of(h):
        norm_forward[(triton.cdiv(n, tile["R"]),)](  # pyright: ignore[reportCallIssue]
            h.contiguous(), h if y is None else y.contiguous(), weight, s, x, n, eps, HAS_Y=y is not None, **tile
        )
    return s, x


@_forward.register_fake
def _outputs(h: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return h.new_empty(0 if y is None else h.shape), h.new_empty(h.shape, dtype=dtype)


@torch.library.custom_op("lmsleep::add_norm_backward", mutates_args=())
def _backward(
    s: Tensor, weight: Tensor, eps: float, ds: Tensor | None, dx: Tensor, narrow: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the sum, the same in dtype `narrow` unless that is None, and shares of the weight's."""
    dh, dy, shares = _gradients(s, weight, eps, ds, dx, narrow)
    D = s.shape[-1]
    n, tile = s.numel() // D, _tile(D)
    dx = dx.contiguous()
    with torch.cuda.device_of(s):
        norm_backward[(len(shares),)](  # pyright: ignore[reportCallIssue]
            *(s.contiguous(), weight, dx if ds is None else ds.contiguous(), dx, dh, dy, shares),
            *(n, eps),
            TURNS=triton.cdiv(n, tile["R"] * len(shares)),
            HAS_DS=ds is not None,
            HAS_DY=narrow is not None,
            **tile,
        )
    return dh, dy, shares


@_backward.register_fake
def _gradients(
    s: Tensor, weight: Tensor, eps: float, ds: Tensor | None, dx: Tensor, narrow: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    D = s.shape[-1]
    rows = _tile(D)["R"]
    programs = min(PROGRAMS, (s.numel() // D + rows - 1) // rows)
    dy = s.new_empty(0) if narrow is None else s.new_empty(s.shape, dtype=narrow)
    return s.new_empty(s.shape), dy, s.new_empty(programs, D, dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    h, y, weight, ctx.eps, _ = inputs
    ctx.narrow = None if y is None or y.dtype == h.dtype else y.dtype
    ctx.has_y = y is not None
    ctx.save_for_backward(h if y is None else output[0], weight)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, ds: Tensor | None, dx: Tensor | None) -> tuple[Tensor | None, ...]:
    s, weight = ctx.saved_tensors
    ds = ds if ctx.has_y else None  # without y the sum is empty, and h stands for it
    if dx is None:  # nobody used the norm
        return ds, ds if ctx.narrow is None or ds is None else ds.to(ctx.narrow), None, None, None
    dh, dy, shares = _backward(s, weight, ctx.eps, ds, dx, ctx.narrow)
    dy = (dh if ctx.narrow is None else dy) if ctx.has_y else None
    return dh, dy, shares.sum(0).to(weight.dtype), None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _tile(D: int) -> dict[str, int]:
    """Whole rows, 1,024 elements or more: 16 for each of 64 threads or, of wide rows, 128 or 256."""
    BD = triton.next_power_of_2(D)
    return {"D": D, "BD": BD, "R": max(1, 1024 // BD), "num_warps": 2 if BD <= 1024 else 4 if BD <= 2048 else 8}
