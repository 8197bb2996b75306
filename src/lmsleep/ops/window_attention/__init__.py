"""Attention inside a window."""

import torch
from torch import Tensor

from lmsleep.ops.backend import Backend, kernel, register, resolve
from lmsleep.ops.shapes import check_shapes
from lmsleep.ops.window_attention.naive import window_attention_naive
from lmsleep.ops.window_attention.sdpa import window_attention_torch

# What one program of the kernel holds. At 75 tokens torch is as fast already: longer windows are left to it.
MAX_TOKENS = 64
MAX_CHANNELS = {2: 128, 4: 64}  # of a head, by the bytes of an element

register(
    "window_attention",
    kernel(
        "triton",
        "lmsleep.ops.window_attention.fused:window_attention_triton",
        limit=f"at most {MAX_TOKENS} tokens and heads of {MAX_CHANNELS[2]} channels, in float32 of {MAX_CHANNELS[4]}",
    ),
    Backend("torch", lambda: window_attention_torch),
    Backend("naive", lambda: window_attention_naive, automatic=False),
)


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Causal softmax attention of n tokens that have none before them, with rotary positions.

    Args:
        q: (B, n, H K), heads one after the other. k, v: (B, n, G K), each for the H / G heads of a group.
        rotary: cos and sin (n, K / 2) of the positions.
        mask: (B, n) bool, False for tokens that nobody sees but themselves; None: all True.
        backend: forces an implementation: "naive", "torch" or "triton".

    Returns:
        o (B, n, H K) in q's dtype, with gradients for q, k and v.

    Raises:
        ValueError: if a shape does not fit, or the forced backend is unknown or cannot run here.
    """
    (B, n, width), K = q.shape, 2 * rotary[0].shape[-1]
    if width % K or k.shape[-1] % K or not k.shape[-1] or width % k.shape[-1]:
        raise ValueError(
            f"q and k must be whole heads of K={K} channels, those of q a multiple of those of k, "
            f"got {width} and {k.shape[-1]} channels"
        )
    expected = {"k": (k, (B, n, k.shape[-1])), "v": (v, (B, n, k.shape[-1]))}
    expected |= {name: (x, (n, K // 2)) for name, x in zip(("cos", "sin"), rotary, strict=True)}
    if mask is not None:
        expected["mask"] = (mask, (B, n))
    check_shapes("q", q, expected)
    beyond = n > MAX_TOKENS or MAX_CHANNELS.get(q.dtype.itemsize, 0) < K
    with torch.autocast(q.device.type, enabled=False):
        implementation = resolve("window_attention", q.device, q.dtype, backend, beyond=beyond, n=n, K=K)
        o = implementation(q, k, v, rotary, mask)
    return o.to(q.dtype)
