"""Mamba-2's state space recurrence (SSD), plain and with the delta correction."""

import torch
from torch import Tensor

from lmsleep.ops.backend import Backend, kernel, register, resolve
from lmsleep.ops.gated_delta import gated_delta
from lmsleep.ops.shapes import check_shapes
from lmsleep.ops.ssd.closed_form import ssd_torch
from lmsleep.ops.ssd.naive import ssd_naive

MIN_CORRECTION = 1e-6
MAX_STATE = 256

register(
    "ssd",
    kernel("mamba_ssm", "lmsleep.ops.ssd.mamba:ssd_mamba", limit=f"N of at most {MAX_STATE}"),
    Backend("torch", lambda: ssd_torch),
    Backend("naive", lambda: ssd_naive, automatic=False),
)


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    state: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Mamba-2's recurrence over L tokens, from a state to a state, with gradients for everything.

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T,  y_t = S_t C_t + D x_t. A token with dt = 0 leaves the state as it is.

    Args:
        x: (B, L, H, P).
        dt: (B, L, H), at least 0: bias and softplus are the layer's.
        A: (H,), negative.
        B, C: (B, L, G, N); each of the G groups serves H/G heads.
        D: (H,), the weight of the skip; None is no skip.
        state: (B, H, P, N); None is zero.
        backend: forces an implementation: "naive", "torch" or "mamba_ssm".

    Returns:
        y (B, L, H, P) in x's dtype and the final state (B, H, P, N), float32 (float64 for float64 inputs).

    Raises:
        ValueError: if a shape does not fit, or the forced backend is unknown or cannot run here.
    """
    state = _check(x, dt, A, B, C, D, state)
    N = B.shape[-1]
    implementation = resolve("ssd", x.device, x.dtype, backend, beyond=N > MAX_STATE, N=N)
    dt, A = dt.to(state.dtype), A.to(state.dtype)
    with torch.autocast(x.device.type, enabled=False):
        y, final_state = implementation(x, dt, A, B, C, D, state)
    return y.to(x.dtype), final_state


def ssd_delta(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    correction: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Mamba-2's recurrence with the delta correction: a token writes what the memory gets wrong, not its whole input.

    Between tokens Mamba-2's memory follows S' = A S + x B^T. Here it follows S' = A S + (x - λ S B) B^T: at λ = 1 the
    second term descends |S B - x|^2 / 2, the delta rule; at λ = 0 it is Mamba-2. The decay is taken exactly as in
    Mamba-2, the correction by an implicit step, which is stable for any dt (as in Longhorn, arXiv 2407.14207):

        S' = exp(dt_t A) S_{t-1},   S_t = S' + e_t (x_t - λ S' B_t) B_t^T,   e_t = dt_t / (1 + λ dt_t |B_t|^2).

    A token erases the fraction λ dt |B|^2 / (1 + λ dt |B|^2) of what stands under its B; one with dt = 0 leaves the
    state as it is. The gated delta op does the work.

    Args:
        correction: λ (H,), at least 0; below 1e-6 it counts as 1e-6, which float32 cannot tell from Mamba-2.
        backend: forces an implementation of `gated_delta`.
        x, dt, A, B, C, D, state: as in `ssd`.

    Returns:
        y (B, L, H, P) in x's dtype and the final state (B, H, P, N), as `ssd`.

    Raises:
        ValueError: as `ssd`, and if `correction` is not (H,).
    """
    state = _check(x, dt, A, B, C, D, state)
    check_shapes("x", x, {"correction": (correction, A.shape)})
    dt, A, correction = (tensor.to(state.dtype) for tensor in (dt, A, correction))
    y, state = gated_delta(*_as_gated_delta(x, dt, A, B, C, correction), state.mT, backend=backend)
    y = y.transpose(1, 2)
    return (y if D is None else y + D.to(x.dtype)[:, None] * x), state.mT


def _as_gated_delta(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, correction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k (B, H, L, N), v (B, H, L, P), log decay and beta (B, H, L) with which `gated_delta` computes `ssd_delta`.

    The two steps of `ssd_delta` are one: S_t = exp(dt_t A) S_{t-1} (I - e_t λ B_t B_t^T) + e_t x_t B_t^T, the gated
    delta rule with k = sqrt(λ) B, q = C, v = x / sqrt(λ), log decay dt A and writing strength e_t. Its (K, V) state is
    this one transposed, and it scales q by N**-0.5, which is undone here.
    """
    heads_per_group, N = x.shape[2] // B.shape[2], B.shape[3]
    λ = correction.clamp(min=MIN_CORRECTION)
    root = λ.sqrt()[:, None].to(x.dtype)
    square = B.to(dt.dtype).square().sum(-1).repeat_interleave(heads_per_group, dim=2)  # (B, L, H)
    strength = dt / (1 + λ * dt * square)
    B, C = (tensor.repeat_interleave(heads_per_group, dim=2).to(x.dtype) for tensor in (B, C))
    q, k, v, log_decay, beta = (z.transpose(1, 2) for z in (C * N**0.5, root * B, x / root, dt * A, strength))
    return q, k, v, log_decay, beta


def _check(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor | None) -> Tensor:
    """The state to start from, after all shapes were found to fit."""
    if x.ndim != 4 or B.ndim != 4 or 0 in x.shape:
        raise ValueError(
            f"x must be (B, L, H, P) and B (B, L, G, N), none empty, got {tuple(x.shape)}, {tuple(B.shape)}"
        )
    batch, length, H, P = x.shape
    G, N = B.shape[2:]
    if H % G:
        raise ValueError(f"the {G} groups of B must divide the {H} heads of x")
    expected = {"dt": (dt, (batch, length, H)), "A": (A, (H,)), "B": (B, (batch, length, G, N)), "C": (C, B.shape)}
    if D is not None:
        expected["D"] = (D, (H,))
    if state is None:
        state = x.new_zeros(batch, H, P, N, dtype=torch.promote_types(x.dtype, torch.float32))
    expected["state"] = (state, (batch, H, P, N))
    check_shapes("x", x, expected)
    return state.to(torch.promote_types(x.dtype, torch.float32))
