"""The gated delta rule by flash-linear-attention's chunk kernels. Importing this module imports fla."""

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore[reportMissingImports]
from torch import Tensor


def gated_delta_fla(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`gated_delta_naive` on CUDA: any length, state in float32, products in the dtype of v.

    Raises:
        ValueError: for a key size the kernels do not take.
    """
    if k.shape[-1] > 256:
        raise ValueError(f"gated_delta: backend 'fla' takes keys of up to 256 channels, got {k.shape[-1]}; use 'torch'")
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
