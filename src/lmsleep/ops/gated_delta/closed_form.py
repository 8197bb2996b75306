"""The gated delta rule without a loop over time: exact closed form of a chunk, a loop over chunks for long inputs."""

import torch
from torch import Tensor

CHUNK = 64


def gated_delta_torch(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`gated_delta_naive` in matrix products: one chunk up to 2 * CHUNK tokens, chunks of CHUNK above. Any length."""
    q, k, v, log_decay, beta = (x.to(state.dtype) for x in (q, k, v, log_decay, beta))
    length = q.shape[2]
    if length <= 2 * CHUNK:
        return _window(q, k, v, log_decay, beta, state)
    outputs = []
    for start in range(0, length, CHUNK):
        span = slice(start, start + CHUNK)
        o, state = _window(q[:, :, span], k[:, :, span], v[:, :, span], log_decay[..., span], beta[..., span], state)
        outputs.append(o)
    return torch.cat(outputs, dim=2), state


def _window(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk at once.

    With G the cumulative log decay and D_ts = exp(G_t - G_s), the writes W (rows w_t = beta_t u_t) solve
        (I + tril(beta D * K K^T, -1)) W = beta (V - exp(G) K S_0),
    and then
        O = (exp(G) Q S_0 + tril(D * Q K^T) W) / sqrt(K),    S = exp(G_L) S_0 + (exp(G_L - G) K)^T W.
    """
    G = log_decay.cumsum(-1)
    # The mask comes before exp: above the diagonal the difference is positive and may overflow.
    causal = torch.ones(G.shape[-1], G.shape[-1], dtype=torch.bool, device=G.device).tril()
    D = (G[..., :, None] - G[..., None, :]).masked_fill(~causal, -torch.inf).exp()
    decayed = G.exp()[..., None]
    system = beta[..., None] * D * (k @ k.mT)  # the solver takes its diagonal as ones and never looks above it
    writes = torch.linalg.solve_triangular(
        system, beta[..., None] * (v - decayed * (k @ state)), upper=False, unitriangular=True
    )
    o = (decayed * (q @ state) + (D * (q @ k.mT)) @ writes) * q.shape[-1] ** -0.5
    kept = D[..., -1, :, None] * k
    return o, decayed[..., -1:, :] * state + kept.mT @ writes
