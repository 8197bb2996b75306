"""The definition of the short convolutions: loops over time and taps."""

import torch
import torch.nn.functional as F
from torch import Tensor


def short_conv_naive(
    x: Tensor, weight: Tensor, bias: Tensor | None, left: Tensor | None, activation: str | None
) -> Tensor:
    """y_t = f(bias + sum_w weight[:, w] x_{t - W + 1 + w}): causal, each channel on its own.

    Args:
        x: (B, L, D). weight: (D, W). bias: (D,) or None. left: (B, W - 1, D), the inputs before x, or None: zeros.

    Returns:
        y (B, L, D).
    """
    y = dynamic_conv_naive(x, weight.expand(*x.shape, -1), left, None)
    y = y if bias is None else y + bias
    return F.silu(y) if activation == "silu" else y


def dynamic_conv_naive(x: Tensor, kernels: Tensor, left: Tensor | None, activation: str | None) -> Tensor:
    """y_t = f(sum_w kernels[t, :, w] x_{t - W + 1 + w}), with kernels (B, L, D, W) and the rest as above."""
    width = kernels.shape[-1]
    inputs = F.pad(x, (0, 0, width - 1, 0)) if left is None else torch.cat([left, x], dim=1)
    outputs = []
    for t in range(x.shape[1]):
        taps = [kernels[:, t, :, w] * inputs[:, t + w] for w in range(width)]
        outputs.append(torch.stack(taps).sum(0))
    y = torch.stack(outputs, dim=1)
    return F.silu(y) if activation == "silu" else y
