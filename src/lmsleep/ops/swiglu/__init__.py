"""The activation of a gated feed-forward layer."""

import torch.nn.functional as F
from torch import Tensor

from lmsleep.ops.backend import Backend, kernel, register, resolve
from lmsleep.ops.shapes import check_shapes
from lmsleep.ops.swiglu.naive import swiglu_naive


def swiglu_torch(gate: Tensor, up: Tensor) -> Tensor:
    """`swiglu_naive` in two calls."""
    return F.silu(gate) * up


register(
    "swiglu",
    kernel("triton", "lmsleep.ops.swiglu.fused:swiglu_triton"),
    Backend("torch", lambda: swiglu_torch),
    Backend("naive", lambda: swiglu_naive, automatic=False),
)


def swiglu(gate: Tensor, up: Tensor, backend: str | None = None) -> Tensor:
    """silu(gate) * up, (..., D) each, with gradients for both.

    Args:
        gate, up: of one dtype. They may be parts of one tensor, and then so are their gradients.
        backend: forces an implementation: "naive", "torch" or "triton".

    Raises:
        ValueError: if the shapes differ, or the forced backend is unknown or cannot run here.
    """
    check_shapes("gate", gate, {"up": (up, gate.shape)})
    return resolve("swiglu", gate.device, gate.dtype, backend)(gate, up)
