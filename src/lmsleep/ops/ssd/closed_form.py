"""SSD without a loop over time: exact closed form of a chunk, and a loop over chunks for long inputs."""

import torch
from torch import Tensor

CHUNK = 64


def ssd_torch(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`ssd_naive` in matrix products: one chunk up to 2 * CHUNK tokens, chunks of CHUNK above. Any length."""
    length, groups = x.shape[1], B.shape[2]
    x, dt, A, B, C = (tensor.to(state.dtype) for tensor in (x, dt, A, B, C))
    # Heads are split into (groups, heads per group), so that B and C are never copied per head.
    write = (dt[..., None] * x).transpose(1, 2).unflatten(1, (groups, -1))  # (B, G, H/G, L, P)
    log_decay = (dt * A).transpose(1, 2).unflatten(1, (groups, -1))  # (B, G, H/G, L)
    B, C = (tensor.transpose(1, 2) for tensor in (B, C))  # (B, G, L, N)
    state = state.unflatten(1, (groups, -1))  # (B, G, H/G, P, N)
    outputs = []
    step = length if length <= 2 * CHUNK else CHUNK
    for start in range(0, length, step):
        span = slice(start, start + step)
        y, state = _chunk(write[..., span, :], log_decay[..., span], B[:, :, span], C[:, :, span], state)
        outputs.append(y)
    y = torch.cat(outputs, dim=-2).flatten(1, 2).transpose(1, 2)
    if D is not None:
        y = y + D.to(y.dtype)[:, None] * x
    return y, state.flatten(1, 2)


def _chunk(write: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk at once (arXiv 2405.21060, section 6).

    With G the cumulative log decay, D_ts = exp(G_t - G_s) and X the rows dt_t x_t,
        Y = tril(D * C B^T) X + exp(G) C S_0^T,    S = exp(G_L) S_0 + X^T diag(exp(G_L - G)) B.
    """
    G = log_decay.cumsum(-1)
    # The mask comes before exp: above the diagonal the difference is positive and may overflow.
    causal = torch.ones(G.shape[-1], G.shape[-1], dtype=torch.bool, device=G.device).tril()
    D = (G[..., :, None] - G[..., None, :]).masked_fill(~causal, -torch.inf).exp()
    decayed = G.exp()[..., None]
    B, C = B[:, :, None], C[:, :, None]
    y = (D * (C @ B.mT)) @ write + decayed * (C @ state.mT)
    kept = D[..., -1, :, None] * write
    return y, decayed[..., -1:, :] * state + kept.mT @ B
