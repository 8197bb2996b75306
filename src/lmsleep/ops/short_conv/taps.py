"""The short convolutions as a sum of shifted inputs, one term per tap.

Four multiply-adds over (B, L, D) need no transposition, which `conv1d` does, and a compiler fuses them into one kernel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def short_conv_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, left: Tensor | None, activation: str | None
) -> Tensor:
    """`short_conv_naive` without a loop over time."""
    plain = not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()
    if x.device.type == "cpu" and x.dtype == weight.dtype and plain:
        return _Taps.apply(x, weight, bias, left, activation)
    return _sum_taps(x, weight, bias, left, activation)


def dynamic_conv_torch(x: Tensor, kernels: Tensor, left: Tensor | None, activation: str | None) -> Tensor:
    """`dynamic_conv_naive` without a loop over time."""
    return _sum_taps(x, kernels, None, left, activation)


def _sum_taps(x: Tensor, kernels: Tensor, bias: Tensor | None, left: Tensor | None, activation: str | None) -> Tensor:
    length, width = x.shape[1], kernels.shape[-1]
    inputs = F.pad(x, (0, 0, width - 1, 0)) if left is None else torch.cat([left, x], dim=1)
    y = x * kernels[..., -1]
    if bias is not None:
        y = y + bias
    for w in range(width - 1):
        y = y + inputs[:, w : w + length] * kernels[..., w]
    return F.silu(y) if activation == "silu" else y


class _Taps(torch.autograd.Function):
    """The same in place, with gradients written out: no joined inputs, one buffer each way."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, left: Tensor | None, activation: str | None
    ) -> Tensor:
        taps = weight.mT.contiguous()  # channels with gaps between them are four times slower
        y = x * taps[-1] if bias is None else torch.addcmul(bias, x, taps[-1])
        for w, shift in _shifts(taps, x):
            y[:, shift:].addcmul_(x[:, : x.shape[1] - shift], taps[w])
            if left is not None:
                y[:, :shift].addcmul_(left[:, w : w + shift], taps[w])
        ctx.save_for_backward(x, taps, left, y)
        ctx.activation, ctx.has_bias = activation, bias is not None
        return F.silu(y) if activation == "silu" else y.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, taps, left, y = ctx.saved_tensors
        dy = torch.ops.aten.silu_backward(dy, y) if ctx.activation == "silu" else dy
        dx, dtaps, dleft = dy * taps[-1], torch.empty_like(taps), None if left is None else torch.zeros_like(left)
        dtaps[-1] = (dy * x).sum((0, 1))
        for w, shift in _shifts(taps, x):
            kept = x.shape[1] - shift
            dx[:, :kept].addcmul_(dy[:, shift:], taps[w])
            dtaps[w] = (dy[:, shift:] * x[:, :kept]).sum((0, 1))
            if left is not None and dleft is not None:
                dleft[:, w : w + shift].addcmul_(dy[:, :shift], taps[w])
                dtaps[w] += (dy[:, :shift] * left[:, w : w + shift]).sum((0, 1))
        return dx, dtaps.mT, dy.sum((0, 1)) if ctx.has_bias else None, dleft, None


def _shifts(taps: Tensor, x: Tensor) -> list[tuple[int, int]]:
    """For each tap but the last: its index, and how far behind the token it looks, at most the length of x."""
    width = len(taps)
    return [(w, min(width - 1 - w, x.shape[1])) for w in range(width - 1)]
