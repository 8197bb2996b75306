"""Short causal depthwise convolutions: with one kernel for all tokens, and with a kernel per token."""

import torch
from torch import Tensor

from lmsleep.ops.backend import Backend, kernel, register, resolve
from lmsleep.ops.shapes import check_shapes
from lmsleep.ops.short_conv.naive import dynamic_conv_naive, short_conv_naive
from lmsleep.ops.short_conv.taps import dynamic_conv_torch, short_conv_torch

register(
    "short_conv",
    kernel(
        "causal_conv1d",
        "lmsleep.ops.short_conv.causal_conv1d:short_conv_causal_conv1d",
        eager=True,
        limit="2 to 4 taps, and channels in multiples of 8",
    ),
    Backend("torch", lambda: short_conv_torch),
    Backend("naive", lambda: short_conv_naive, automatic=False),
)
register(
    "dynamic_conv",
    Backend("torch", lambda: dynamic_conv_torch),
    Backend("naive", lambda: dynamic_conv_naive, automatic=False),
)


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    left: Tensor | None = None,
    activation: str | None = "silu",
    backend: str | None = None,
) -> Tensor:
    """Causal depthwise convolution along L, with gradients for everything.

    Args:
        x: (B, L, D).
        weight: (D, W); the last tap is the current token's.
        bias: (D,); None is zero.
        left: (B, W - 1, D), the inputs just before x; None is zero.
        activation: "silu" or None.
        backend: forces an implementation: "naive", "torch" or "causal_conv1d".

    Returns:
        y (B, L, D) in x's dtype.

    Raises:
        ValueError: if a shape or the activation does not fit, or the forced backend is unknown or cannot run here.
    """
    left = _check(x, weight, (x.shape[-1],), bias, left, activation)
    D, W = weight.shape
    beyond = not 2 <= W <= 4 or D % 8 != 0
    implementation = resolve("short_conv", x.device, x.dtype, backend, beyond=beyond, D=D, W=W)
    return implementation(x, weight, bias, left, activation).to(x.dtype)


def dynamic_conv(
    x: Tensor,
    kernels: Tensor,
    left: Tensor | None = None,
    activation: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Causal depthwise convolution along L whose kernel every token brings along.

    Args:
        kernels: (B, L, D, W); the last tap is the current token's.
        backend: forces an implementation: "naive" or "torch".
        x, left, activation: as in `short_conv`.

    Returns:
        y (B, L, D) in x's dtype.

    Raises:
        ValueError: as `short_conv`.
    """
    left = _check(x, kernels, tuple(x.shape), None, left, activation)
    return resolve("dynamic_conv", x.device, x.dtype, backend)(x, kernels, left, activation).to(x.dtype)


def conv_tail(x: Tensor, left: Tensor | None, width: int) -> Tensor:
    """What the next convolution takes as its `left`: the last `width - 1` inputs, (B, width - 1, D), of x (B, L, D) and
    the left before it, zeros where there were none."""
    missing = width - 1 - x.shape[1]
    if missing <= 0:
        return x[:, -missing:].clone()  # apart from x, which would stay in memory as long as its last rows
    past = x.new_zeros(x.shape[0], missing, x.shape[2]) if left is None else left[:, -missing:]
    return torch.cat([past, x], dim=1)


def _check(
    x: Tensor, kernel: Tensor, per: tuple[int, ...], bias: Tensor | None, left: Tensor | None, activation: str | None
) -> Tensor | None:
    """`left` in x's dtype, after all shapes were found to fit. `per` is what the kernel has one of its W taps for."""
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"x must be (B, L, D) and not empty, got {tuple(x.shape)}")
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be 'silu' or None, got {activation!r}")
    (B, _, D), W = x.shape, kernel.shape[-1]
    expected = {"the kernel": (kernel, (*per, W))}
    if bias is not None:
        expected["bias"] = (bias, (D,))
    if left is not None:
        expected["left"] = (left, (B, W - 1, D))
    check_shapes("x", x, expected)
    return None if left is None else left.to(x.dtype)
