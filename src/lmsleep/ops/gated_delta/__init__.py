"""The gated delta rule."""

import torch
from torch import Tensor

from lmsleep.ops.backend import WINDOW, Backend, kernel, register, resolve
from lmsleep.ops.gated_delta.closed_form import gated_delta_torch
from lmsleep.ops.gated_delta.naive import gated_delta_naive
from lmsleep.ops.shapes import check_shapes

MAX_KEY_DIM = 256
LIMIT = f"keys of at most {MAX_KEY_DIM} channels"

register(
    "gated_delta",
    kernel("triton", "lmsleep.ops.gated_delta.fused:gated_delta_triton", short=True, limit=LIMIT),
    kernel("fla", "lmsleep.ops.gated_delta.fla:gated_delta_fla", limit=LIMIT),
    Backend("torch", lambda: gated_delta_torch),
    Backend("naive", lambda: gated_delta_naive, automatic=False),
)


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The gated delta rule over L tokens, from a state to a state, with gradients for everything.

    Args:
        q, k: (B, H, L, K); q is scaled by K**-0.5 inside, neither is normalised here.
        v: (B, H, L, V).
        log_decay: (B, H, L), finite and at most 0.
        beta: (B, H, L), the writing strength.
        state: (B, H, K, V); None is zero.
        backend: forces an implementation: "naive", "torch", "triton" or "fla".

    Returns:
        o (B, H, L, V) in v's dtype and the final state (B, H, K, V), float32 also under mixed precision.

    Raises:
        ValueError: if a shape does not fit, or the forced backend is unknown or cannot run here.
    """
    B, H, L, K = k.shape
    expected = {"q": (q, (B, H, L, K)), "v": (v, (B, H, L, v.shape[-1]))}
    expected |= {"log_decay": (log_decay, (B, H, L)), "beta": (beta, (B, H, L))}
    if state is None:
        state = torch.zeros(B, H, K, v.shape[-1], device=v.device, dtype=torch.promote_types(v.dtype, torch.float32))
    expected["state"] = (state, (B, H, K, v.shape[-1]))
    check_shapes("k", k, expected)
    with torch.autocast(q.device.type, enabled=False):
        implementation = resolve("gated_delta", v.device, v.dtype, backend, L > WINDOW, K > MAX_KEY_DIM, K=K)
        o, after = implementation(q, k, v, log_decay, beta, state)
    return o.to(v.dtype), after
