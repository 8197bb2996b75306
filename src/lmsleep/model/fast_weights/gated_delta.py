"""The gated delta layer, the rule that the paper's experiments run (section 3.1; arXiv 2412.06464)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from lmsleep.model.attention import Span
from lmsleep.model.config import HybridConfig
from lmsleep.model.fast_weights.decay import DECAY_RATES, draw_decay, step_size
from lmsleep.model.linear import project
from lmsleep.model.norm import GatedRMSNorm, l2_normalise
from lmsleep.ops import gated_delta, short_conv


class GatedDelta(nn.Module):
    """q, k, v = silu(conv(W x)), q and k L2-normalised; S by the gated delta rule; y = W_o (norm(S^T q) * silu(W_g x)).

    Gates per head: decay exp(-exp(A_log) softplus(W_a x + dt_bias)), writing strength sigmoid(W_b x), doubled under
    `allow_neg_eigval`. About 5 D^2 parameters when H K = H V = D.
    """

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        H, K, V = config.fast_shape
        self.state_shape = (H, K, V)
        self.beta_scale = 2.0 if config.allow_neg_eigval else 1.0
        self.q_proj = nn.Linear(config.d_model, H * K, bias=False)
        self.k_proj = nn.Linear(config.d_model, H * K, bias=False)
        self.v_proj = nn.Linear(config.d_model, H * V, bias=False)
        self.a_proj = nn.Linear(config.d_model, H, bias=False)
        self.b_proj = nn.Linear(config.d_model, H, bias=False)
        self.g_proj = nn.Linear(config.d_model, H * V, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(2 * H * K + H * V, config.conv_size))
        self.A_log = nn.Parameter(torch.empty(H))
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.norm = GatedRMSNorm(V, config.norm_eps)
        self.o_proj = nn.Linear(H * V, config.d_model, bias=False)
        draw_decay(self.A_log, self.dt_bias, config.decay_rates or DECAY_RATES["gated_delta"])
        nn.init.uniform_(self.conv_weight, -(config.conv_size**-0.5), config.conv_size**-0.5)

    def forward(
        self, x: Tensor, state: Tensor, left: tuple[Tensor, ...], span: Span
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """x (B, n, D), state (B, H, K, V), left: the last inputs of the convolution or empty. Returns y (B, n, D), the
        new state and the new left context."""
        H, K, V = self.state_shape
        q, k, v, gate, a, b = project(x, self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.a_proj, self.b_proj)
        qkv = torch.cat([q, k, v], dim=-1)
        if span.mask is not None:
            qkv = qkv * span.mask[..., None]
        mixed = short_conv(qkv, self.conv_weight, None, left[0] if left else None, activation="silu")
        q, k, v = (rearrange(part, "b n (h k) -> b h n k", h=H) for part in mixed.split([H * K, H * K, H * V], dim=-1))
        log_decay, beta = self.gates(a, b, span.mask)
        o, state = gated_delta(l2_normalise(q), l2_normalise(k), v, log_decay, beta, state)
        o = self.norm(rearrange(o, "b h n v -> b n h v"), rearrange(gate, "b n (h v) -> b n h v", h=H))
        return project(o.flatten(2), self.o_proj)[0], state, (conv_tail(qkv, left, self.conv_weight.shape[1]),)

    def gates(self, a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """a, b (B, n, H) -> log decay and beta, (B, H, n); a masked token neither decays nor writes."""
        log_decay = -self.A_log.exp() * step_size(a, self.dt_bias, mask)
        beta = self.beta_scale * b.to(log_decay.dtype).sigmoid()
        if mask is not None:
            beta = beta * mask[..., None]
        return log_decay.mT, beta.mT

    def flops_per_token(self, window_size: int) -> int:
        """Recall of k, write, and read by q: three K x V products a head, whatever the window."""
        H, K, V = self.state_shape
        return 6 * H * K * V


def conv_tail(x: Tensor, left: tuple[Tensor, ...], width: int) -> Tensor:
    """The last `width - 1` inputs of a convolution, (B, width - 1, D), zeros where there were none: its next left."""
    past = left[0] if left else x.new_zeros(x.shape[0], width - 1, x.shape[2])
    return torch.cat([past, x], dim=1)[:, x.shape[1] :]
