"""The gated delta layer, the rule that the paper's experiments run (section 3.1; arXiv 2412.06464)."""

import torch
from torch import Tensor, nn

from lmsleep.model.attention import Span
from lmsleep.model.config import HybridConfig
from lmsleep.model.fast_weights.decay import DECAY_RATES, draw_decay
from lmsleep.model.linear import project, project_side_by_side
from lmsleep.model.norm import RMSNorm
from lmsleep.ops import delta_layer


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
        self.norm = RMSNorm(V, config.norm_eps)
        self.o_proj = nn.Linear(H * V, config.d_model, bias=False)
        draw_decay(self.A_log, self.dt_bias, config.decay_rates or DECAY_RATES["gated_delta"])
        nn.init.uniform_(self.conv_weight, -(config.conv_size**-0.5), config.conv_size**-0.5)

    def forward(
        self, x: Tensor, state: Tensor, left: tuple[Tensor, ...], span: Span
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """x (B, n, D), state (B, H, K, V), left: the last inputs of the convolution or empty. Returns y (B, n, D), the
        new state and the new left context."""
        projected = project_side_by_side(
            x, self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.a_proj, self.b_proj
        )
        y, state, tail = delta_layer(
            projected,
            self.conv_weight,
            self.A_log,
            self.dt_bias,
            self.norm.weight,
            state,
            left[0] if left else None,
            span.mask,
            self.beta_scale,
            self.norm.eps,
        )
        return project(y, self.o_proj)[0], state, (tail,) if span.keep else ()

    def flops_per_token(self, window_size: int) -> int:
        """Recall of k, write, and read by q: three K x V products a head, whatever the window."""
        H, K, V = self.state_shape
        return 6 * H * K * V
