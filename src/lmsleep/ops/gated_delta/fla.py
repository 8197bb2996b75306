"""The gated delta rule by flash-linear-attention's chunk kernels. Importing this module imports fla."""

import torch
import triton
from fla import utils  # pyright: ignore[reportMissingImports]
from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore[reportMissingImports]
from torch import Tensor

if utils.IS_NVIDIA_HOPPER and utils.TRITON_ABOVE_3_4_0 and not utils.TRITON_ABOVE_3_7_1:
    raise ImportError(
        f"on Hopper its backward needs triton 3.7.1 or newer, or older than 3.4, got {triton.__version__}"
    )


def gated_delta_fla(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`gated_delta_naive` on CUDA: any length, state in float32, products in the dtype of v."""
    q, k, v, log_decay, beta = (x.transpose(1, 2) for x in (q, k, v, log_decay, beta))
    o, state = chunk_gated_delta_rule(
        q.to(v.dtype),
        k.to(v.dtype),
        v,
        log_decay.float(),
        beta.float(),
        initial_state=state.to(torch.float32),
        output_final_state=True,
    )
    return o.transpose(1, 2), state
