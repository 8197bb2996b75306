"""The inside of a gated delta layer and of a Jet layer: from projections to the input of the output projection."""

import torch
from torch import Tensor

from lmsleep.ops.backend import Backend, is_forced, kernel, register, resolve
from lmsleep.ops.delta_layer.composed import delta_layer_torch
from lmsleep.ops.delta_layer.naive import delta_layer_naive
from lmsleep.ops.shapes import check_shapes

register(
    "delta_layer",
    kernel("triton", "lmsleep.ops.delta_layer.fused:delta_layer_triton"),
    Backend("torch", lambda: delta_layer_torch),
    Backend("naive", lambda: delta_layer_naive, automatic=False),
)


def delta_layer(
    projected: Tensor,
    taps: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    weight: Tensor,
    state: Tensor,
    left: Tensor | None = None,
    mask: Tensor | None = None,
    beta_scale: float = 1.0,
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a gated delta layer does with the projections of n tokens, with gradients for everything.

    A short convolution of q, k and v; SiLU; q and k divided by sqrt(|.|^2 + 1e-6); the gates; the gated delta rule
    (arXiv 2412.06464); a gated RMS norm. See `delta_layer_naive`.

    Args:
        projected: (B, n, 2 H K + 2 H V + 2 H), the columns of q, k, v, gate, a and b.
        taps: (2 H K + H V, W) of the convolution; the last is the current token's.
        A_log, dt_bias: (H,); the log decay is -exp(A_log) softplus(a + dt_bias).
        weight: (V,) of the norm.
        state: (B, H, K, V), the fast weights before the window.
        left: (B, W - 1, 2 H K + H V), the inputs of the convolution before the window; None is zero.
        mask: (B, n) bool, False for tokens that leave no trace; None: all count.
        beta_scale: the writing strength is beta_scale sigmoid(b).
        eps: of the norm.
        backend: forces an implementation: "naive", "torch" (made of the other ops) or "triton" (one kernel).

    Returns:
        y (B, n, H V) in the dtype of `projected`, the final state (B, H, K, V), float32 also under mixed precision, and
        what the next call takes as its `left`.

    Raises:
        ValueError: if a shape does not fit, or the forced backend is unknown or cannot run here.
    """
    H, K, V = state.shape[1:]
    inputs = (projected, taps, A_log, dt_bias, weight, state, left, mask)
    _check(inputs, "taps", (), 2 * H * K + H * V)
    return _run(inputs, False, beta_scale, eps, backend)


def jet_layer(
    projected: Tensor,
    kernels: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    weight: Tensor,
    state: Tensor,
    left: Tensor | None = None,
    mask: Tensor | None = None,
    beta_scale: float = 1.0,
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`delta_layer` with a convolution of v alone, whose kernel every token brings along.

    Args:
        kernels: (B, n, H V, W); the last tap is the current token's.
        left: (B, W - 1, H V).
    """
    inputs = (projected, kernels, A_log, dt_bias, weight, state, left, mask)
    _check(inputs, "kernels", projected.shape[:2], state.shape[1] * state.shape[3])
    return _run(inputs, True, beta_scale, eps, backend)


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


def _check(inputs: Inputs, name: str, per: tuple[int, ...], columns: int) -> None:
    """Raises ValueError unless all shapes fit. `name` is what the taps are called, which are one set for each of `per`;
    `columns` are those convolved."""
    projected, taps, A_log, dt_bias, weight, state, left, mask = inputs
    (B, n), (H, K, V), W = projected.shape[:2], state.shape[1:], taps.shape[-1]
    check_shapes("projected", projected, {"state": (state, (B, H, K, V))})
    expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "projected": (projected, (B, n, 2 * H * (K + V + 1))),
        name: (taps, (*per, columns, W)),
        "A_log": (A_log, (H,)),
        "dt_bias": (dt_bias, (H,)),
        "weight": (weight, (V,)),
    }
    if left is not None:
        expected["left"] = (left, (B, W - 1, columns))
    if mask is not None:
        expected["mask"] = (mask, (B, n))
    check_shapes("state", state, expected)


def _run(
    inputs: Inputs, per_token: bool, beta_scale: float, eps: float, backend: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    projected = inputs[0]
    if backend is None and not is_forced("delta_layer") and is_forced("gated_delta", "short_conv", "dynamic_conv"):
        backend = "torch"  # the implementation that these ops are part of
    implementation = resolve("delta_layer", projected.device, projected.dtype, backend)
    with torch.autocast(projected.device.type, enabled=False):
        y, state, tail = implementation(*inputs, per_token, beta_scale, eps)
    return y.to(projected.dtype), state, tail.to(projected.dtype)
