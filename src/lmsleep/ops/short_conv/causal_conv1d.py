"""The short convolution by causal-conv1d's CUDA kernel. Importing this module imports causal-conv1d."""

import torch
from causal_conv1d import causal_conv1d_fn  # pyright: ignore[reportMissingImports]
from torch import Tensor


def short_conv_causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, left: Tensor | None, activation: str | None
) -> Tensor:
    """`short_conv_naive` on CUDA, accumulated in float32."""
    before = None if left is None else _packed(left).transpose(1, 2)
    x = _packed(x).transpose(1, 2)
    return causal_conv1d_fn(x, weight, bias, initial_states=before, activation=activation).transpose(1, 2)


def _packed(x: Tensor) -> Tensor:
    """x (B, L, D), copied unless it is without gaps: the kernel reads 8 channels at once and wants strides in eights.
    `contiguous` is not enough, for it leaves a single token of a wider tensor as it is."""
    _, length, dim = x.shape
    return x if x.stride() == (length * dim, dim, 1) else x.clone(memory_format=torch.contiguous_format)
