"""The Mamba-2 layer (arXiv 2405.21060; the paper's eq. 3) with initial and final state, and its delta form."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lmsleep.memory import ConvTail
from lmsleep.model.block import PassContext
from lmsleep.model.config import ModelConfig
from lmsleep.model.layers import RMSNorm, init_decay
from lmsleep.ops import conv_tail, short_conv, ssd, ssd_delta

NORM_EPS = 1e-5  # that of mamba-ssm


class Mamba2(nn.Module):
    """z, x, B, C, dt = W_in u;  x, B, C = silu(conv(x, B, C));  y = ssd(x, softplus(dt + dt_bias), -exp(A_log), B, C,
    D);  out = W_out norm(y * silu(z)).

    Parameters are named and shaped as in `mamba_ssm.modules.mamba2.Mamba2` at its defaults, so that a state_dict of one
    loads into the other: `expand` there is nheads * headdim / d_model here, which need not be whole. With `delta`
    there is one more, `correction_log` (H,), and a token writes the error of the memory about x instead of x: see
    `lmsleep.ops.ssd_delta`.

    Args:
        config: sizes; the fast weights of a head are a (P, N) matrix, which others call (V, K). `delta`: the delta
            correction, whose strength λ = exp(correction_log) starts at 1, the delta rule. Initial decay rates: those
            of mamba-ssm, (1, 16), or `decay_rates`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        H, N, P = config.fast_shape
        self.state_shape = (H, P, N)
        self.delta = config.delta
        d_inner, width = H * P, config.conv_size
        self.parts = (d_inner, N, N)  # x, B, C; all heads share B and C
        conv_dim = sum(self.parts)
        self.in_proj = nn.Linear(config.d_model, d_inner + conv_dim + H, bias=False)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, width, groups=conv_dim, padding=width - 1)
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.A_log = nn.Parameter(torch.empty(H))
        self.D = nn.Parameter(torch.ones(H))
        self.correction_log = nn.Parameter(torch.zeros(H)) if config.delta else None
        self.norm = RMSNorm(d_inner, NORM_EPS)
        self.out_proj = nn.Linear(d_inner, config.d_model, bias=False)
        init_decay(self.A_log, self.dt_bias, config.decay_rates or (1.0, 16.0))

    def forward(
        self, u: Tensor, state: Tensor, cache: ConvTail | None, ctx: PassContext
    ) -> tuple[Tensor, Tensor, ConvTail | None]:
        """u (B, n, D), state (B, H, P, N), last inputs of the convolution -> y (B, n, D), the new state
        and inputs (None unless `ctx.use_cache`)."""
        H, before = self.state_shape[0], cache.inputs if cache else None
        z, xBC, dt = self.in_proj(u).split([self.parts[0], sum(self.parts), H], dim=-1)
        dt = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)
        if ctx.mask is not None:
            dt, xBC = dt * ctx.mask[..., None], xBC * ctx.mask[..., None]
        weight = self.conv1d.weight[:, 0]
        mixed = short_conv(xBC, weight, self.conv1d.bias, before, activation="silu")
        x, B, C = mixed.split(self.parts, dim=-1)
        x = rearrange(x, "b n (h p) -> b n h p", h=H)
        B, C = (part.unsqueeze(2) for part in (B, C))
        A = -self.A_log.exp()
        if self.correction_log is None:
            y, state = ssd(x, dt, A, B, C, self.D, state)
        else:
            y, state = ssd_delta(x, dt, A, B, C, self.D, state, self.correction_log.exp())
        wide = self.norm.weight.dtype
        y = self.norm(y.flatten(2).to(wide) * F.silu(z.to(wide)))
        tail = ConvTail(conv_tail(xBC, before, weight.shape[1])) if ctx.use_cache else None
        return self.out_proj(y), state, tail

    def flops_per_token(self, window_size: int) -> int:
        """Write, read by C and, with `delta`, recall of B: a P x N product a head each."""
        H, P, N = self.state_shape
        return (6 if self.delta else 4) * H * P * N
