"""SSD by mamba-ssm's Triton kernels. Importing this module imports mamba-ssm."""

import torch
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined  # pyright: ignore[reportMissingImports]
from torch import Tensor

CHUNKS = (32, 64, 128, 256)


@torch.compiler.disable  # the kernels tune themselves by launching, which cannot be traced
def ssd_mamba(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`ssd_naive` on CUDA: products in x's dtype, decays and the state in float32. Differentiable in every argument."""
    chunk = next((c for c in CHUNKS if c >= x.shape[1]), CHUNKS[-1])
    B, C = B.to(x.dtype), C.to(x.dtype)
    return mamba_chunk_scan_combined(x, dt, A, B, C, chunk, D=D, initial_states=state, return_final_states=True)
