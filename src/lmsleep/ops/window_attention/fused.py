"""Attention inside a window in one Triton launch forward and one backward."""

import torch
from torch import Tensor

from lmsleep.ops.shapes import padded
from lmsleep.ops.window_attention import MAX_TOKENS
from lmsleep.ops.window_attention.kernel import attend_backward, attend_forward, triton


def window_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None
) -> Tensor:
    """`window_attention_naive` on CUDA: products on tensor cores, softmax and all sums in float32.

    q, k and v may be parts of one tensor, and their gradients are: where they come out of one product, a compiler has
    nothing to copy in either direction.
    """
    return _forward(q, k, v, *rotary, mask)


# Custom ops and not a bare autograd.Function, so that `torch.compile` keeps them as single nodes of its graph.
@torch.library.custom_op("lmsleep::window_attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
    o = _output(q, k, v, cos, sin, mask)
    _launch(attend_forward, q, k, v, cos, sin, mask, [], o)
    return o


@_forward.register_fake
def _output(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("lmsleep::window_attention_backward", mutates_args=())
def _backward(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, do: Tensor) -> Tensor:
    """The gradients of q, k and v side by side, (B, n, (H + 2 G) K)."""
    grads = _gradients(q, k, v, cos, sin, mask, do)
    _launch(attend_backward, q, k, v, cos, sin, mask, [do], grads)
    return grads


@_backward.register_fake
def _gradients(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, do: Tensor) -> Tensor:
    return q.new_empty(*q.shape[:2], sum(x.shape[2] for x in (q, k, v)))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, do: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors  # unpacked once: recomputed activations can be taken only once
    grads = _backward(*inputs, do).split([x.shape[2] for x in inputs[:3]], dim=2)
    return (*grads, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_save)


def _launch(
    kernel, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None,
    more: list[Tensor], out: Tensor,
) -> None:  # fmt: skip
    """Runs a kernel that reads q, k, v and `more` by the strides of rows and tokens and writes `out`."""
    (B, n, _), HALF = q.shape, cos.shape[1]
    G, R = k.shape[2] // (2 * HALF), q.shape[2] // k.shape[2]
    units, tile = B * G, _tile(2 * HALF, q.dtype)
    q, k, v, *more = strided = [x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v, *more)]
    seen = q if mask is None else mask.contiguous().view(torch.uint8)  # without a mask it is not read
    with torch.cuda.device_of(q):
        kernel[(triton.cdiv(units, tile["T"] // n),)](
            *(q, k, v, cos.contiguous(), sin.contiguous(), seen, *more, out),
            *((2 * HALF) ** -0.5, units, n),
            *(stride for x in strided for stride in x.stride()[:2]),
            G=G,
            R=R,
            HALF=HALF,
            C=padded(HALF),
            BK=padded(2 * HALF),
            MASKED=mask is not None,
            **tile,
        )


def _tile(K: int, dtype: torch.dtype) -> dict[str, int]:
    """Rows of a program's tile, and its warps. 64 rows are what the tensor cores' widest products take, which read
    operands out of shared memory: smaller tiles need more registers."""
    return {"T": MAX_TOKENS, "num_warps": 4 if K * dtype.itemsize <= 128 else 8, "num_stages": 1}
