"""The gated delta rule without a loop over time: exact closed form of a chunk, a loop over chunks for long inputs."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    """One chunk (B, H, L, ...) at once. q and k go as one matrix of 2 L rows: what one meets, the other meets too."""
    batch = q.shape[:2]
    qk = torch.cat([q, k], dim=2).flatten(0, 1)
    o, after = _Window.apply(qk, *(x.flatten(0, 1) for x in (v, log_decay, beta, state)))
    return o.unflatten(0, batch), after.unflatten(0, batch)


class _Window(torch.autograd.Function):
    """A chunk of n = B H heads: qk (n, 2 L, K), v (n, L, V), log_decay and beta (n, L), S_0 (n, K, V) -> O, S.

    With G the cumulative log decay and D_ts = exp(G_t - G_s) for s <= t, the writes W (rows w_t = beta_t y_t) solve
        (I + beta M) W = beta (V - exp(G) K S_0),    M = tril(D * K K^T, -1),
    and then
        O = (exp(G) Q S_0 + P W) / sqrt(K),  P = D * Q K^T,    S = exp(G_L) S_0 + (exp(G_L - G) K)^T W.

    The gradients are written out: as many small products again cost less than what autograd records.
    """

    @staticmethod
    def forward(
        ctx: Any, qk: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        n, L, V = v.shape
        scale, k = qk.shape[-1] ** -0.5, qk[:, L:]
        G, beta = log_decay.cumsum(-1), beta[..., None]
        # Above the diagonal the difference is positive and may overflow: it is cut before exp.
        D = (G[:, :, None] - G[:, None, :]).clamp_(max=0).exp_().tril_()
        decayed = G.exp()[..., None]
        PM = torch.bmm(qk, k.mT).view(n, 2, L, L).mul_(D[:, None])
        P, M = PM[:, 0], PM[:, 1].tril_(-1)
        recalled = torch.bmm(qk, state).view(n, 2, L, V).mul_(decayed[:, None])  # exp(G) (Q S_0, K S_0)
        errors = v - recalled[:, 1]
        system = beta * M  # the solver takes its diagonal as ones and never looks above it
        W = torch.linalg.solve_triangular(system, beta * errors, upper=False, unitriangular=True)
        o = torch.baddbmm(recalled[:, 0], P, W, beta=scale, alpha=scale)
        kept = D[:, -1, :, None] * k
        after = torch.baddbmm(decayed[:, -1:] * state, kept.mT, W)
        ctx.save_for_backward(qk, beta, state, D, decayed, PM, recalled, errors, system, W, kept)
        return o, after

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, do: Tensor, dafter: Tensor
    ) -> tuple[Tensor, ...]:
        qk, beta, state, D, decayed, PM, recalled, errors, system, W, kept = ctx.saved_tensors
        n, L, V = W.shape
        k, scale = qk[:, L:], qk.shape[-1] ** -0.5
        into = qk.new_empty(n, 2, L, V)  # gradients of what exp(G) Q S_0 and exp(G) K S_0 and W's weights are added to
        do = torch.mul(do, scale, out=into[:, 0])
        dW = torch.baddbmm(torch.bmm(PM[:, 0].mT, do), kept, dafter)
        Z = torch.linalg.solve_triangular(system.mT, dW, upper=True, unitriangular=True)  # gradient of beta * errors
        dv = beta * Z
        torch.neg(dv, out=into[:, 1])
        dbeta = Z.mul_(torch.baddbmm(errors, PM[:, 1], W, alpha=-1)).sum(-1)
        into = into.flatten(1, 2)
        dPM = torch.bmm(into, W.mT).view(n, 2, L, L)
        dPM[:, 1].tril_(-1)
        of_D = (PM * dPM).sum(1)  # D times its gradient
        products = dPM.mul_(D[:, None]).flatten(1, 2)
        dG = of_D.sum(2) - of_D.sum(1) + (recalled.flatten(1, 2) * into).sum(-1).view(n, 2, L).sum(1)
        into = into.view(n, 2, L, V).mul_(decayed[:, None]).flatten(1, 2)
        dqk = torch.baddbmm(torch.bmm(products, k), into, state.mT)
        dstate = torch.baddbmm(decayed[:, -1:] * dafter, qk.mT, into)
        of_kept = torch.bmm(W, dafter.mT)
        of_c = (kept * of_kept).sum(-1)
        dG -= of_c
        dG[:, -1] += of_c.sum(-1) + decayed[:, -1, 0] * (state * dafter).sum((1, 2))
        dk = torch.baddbmm(of_kept.mul_(D[:, -1, :, None]), products.mT, qk)
        dqk[:, L:] += dk
        return dqk, dv, dG.flip(-1).cumsum(-1).flip(-1), dbeta, dstate
