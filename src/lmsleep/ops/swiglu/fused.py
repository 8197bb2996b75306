"""The activation of a gated feed-forward layer in one Triton launch forward and one backward."""

import torch
from torch import Tensor

from lmsleep.ops.swiglu.kernel import swiglu_backward, swiglu_forward, triton


def swiglu_triton(gate: Tensor, up: Tensor) -> Tensor:
    """`swiglu_naive` on CUDA, computed in float32."""
    return _forward(gate, up.to(gate.dtype))


# Custom ops and not a bare autograd.Function, so that `torch.compile` keeps them as single nodes of its graph.
@torch.library.custom_op("lmsleep::swiglu", mutates_args=())
def _forward(gate: Tensor, up: Tensor) -> Tensor:
    y = _output(gate, up)
    _launch(swiglu_forward, gate, up, y)
    return y


@_forward.register_fake
def _output(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


@torch.library.custom_op("lmsleep::swiglu_backward", mutates_args=())
def _backward(gate: Tensor, up: Tensor, dy: Tensor) -> Tensor:
    """The gradients of gate and up side by side, (..., 2 D)."""
    grads = _gradients(gate, up, dy)
    _launch(swiglu_backward, gate, up, dy.contiguous(), grads)
    return grads


@_backward.register_fake
def _gradients(gate: Tensor, up: Tensor, dy: Tensor) -> Tensor:
    return gate.new_empty(*gate.shape[:-1], 2 * gate.shape[-1])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, ...]:
    gate, up = ctx.saved_tensors  # unpacked once: recomputed activations can be taken only once
    return _backward(gate, up, dy).chunk(2, dim=-1)


_forward.register_autograd(_differentiate, setup_context=_save)


def _launch(kernel, gate: Tensor, up: Tensor, *others: Tensor) -> None:
    """Runs a kernel in tiles of 2,048 elements: 16 for each of 128 threads."""
    gate, up = _rows(gate), _rows(up)
    n, F = gate.shape
    cols = min(256, triton.next_power_of_2(F))
    rows = 2048 // cols
    with torch.cuda.device_of(gate):
        kernel[triton.cdiv(n, rows), triton.cdiv(F, cols)](
            gate, up, *others, n, gate.stride(0), up.stride(0), F=F, R=rows, COLS=cols, num_warps=4
        )


def _rows(x: Tensor) -> Tensor:
    """x as rows (n, D) that are dense each; a view of a part of a wider tensor."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return x.reshape(-1, x.shape[-1])
