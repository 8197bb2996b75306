"""The short convolution by causal-conv1d's CUDA kernel. Importing this module imports causal-conv1d."""

from causal_conv1d import causal_conv1d_fn  # pyright: ignore[reportMissingImports]
from torch import Tensor


def short_conv_causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, left: Tensor, activation: str | None
) -> Tensor:
    """`short_conv_naive` on CUDA, accumulated in float32.

    Raises:
        ValueError: for a width or a number of channels the kernel does not take.
    """
    dim, width = weight.shape
    if not 2 <= width <= 4 or dim % 8:
        raise ValueError(
            f"short_conv: backend 'causal_conv1d' takes 2 to 4 taps and channels in multiples of 8, "
            f"got {width} taps and {dim} channels; use 'torch'"
        )
    # The kernel reads whole vectors of 8 channels: a slice of a wider tensor may start between them.
    x, left = x.contiguous(), left.contiguous()
    y = causal_conv1d_fn(x.transpose(1, 2), weight, bias, initial_states=left.transpose(1, 2), activation=activation)
    return y.transpose(1, 2)
