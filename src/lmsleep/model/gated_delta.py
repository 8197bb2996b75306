"""The gated delta layer (Gated DeltaNet, arXiv 2412.06464), the rule of the paper's experiments (section 3.1)."""

import torch
from torch import Tensor, nn

from lmsleep.memory import ConvTail
from lmsleep.model.block import PassContext
from lmsleep.model.config import ModelConfig
from lmsleep.model.layers import RMSNorm, init_decay
from lmsleep.model.linear import SharedWeights, project, project_concat
from lmsleep.ops import delta_layer


class DeltaRule(nn.Module):
    """Base of the layers with a gated delta rule: projections, state shape, FLOPs.

    Args:
        config: sizes, and `allow_neg_eigval`.
        key_heads: heads of q and k.
    """

    def __init__(self, config: ModelConfig, key_heads: int) -> None:
        super().__init__()
        H, K, V = self.state_shape = config.fast_shape
        self.beta_scale = 2.0 if config.allow_neg_eigval else 1.0
        self.q_proj = nn.Linear(config.d_model, key_heads * K, bias=False)
        self.k_proj = nn.Linear(config.d_model, key_heads * K, bias=False)
        self.v_proj = nn.Linear(config.d_model, H * V, bias=False)
        self.a_proj = nn.Linear(config.d_model, H, bias=False)
        self.b_proj = nn.Linear(config.d_model, H, bias=False)
        self.g_proj = nn.Linear(config.d_model, H * V, bias=False)

    def projected(self, x: Tensor, shared: SharedWeights | None) -> Tensor:
        """q, k, v, gate, decay and writing strength of x (B, n, D), concatenated, before any non-linearity."""
        layers = self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.a_proj, self.b_proj
        return project_concat(x, *layers, shared=shared)

    def flops_per_token(self, window_size: int) -> int:
        """Recall of k, write, read by q: three K x V products a head, for any window."""
        H, K, V = self.state_shape
        return 6 * H * K * V


class GatedDelta(DeltaRule):
    """q, k, v = silu(conv(W x)), q and k L2-normalised; S by the gated delta rule; y = W_o (norm(S^T q) * silu(W_g x)).

    Gates per head: decay exp(-exp(A_log) softplus(W_a x + dt_bias)), writing strength sigmoid(W_b x), doubled under
    `allow_neg_eigval`. About 5 D^2 parameters when H K = H V = D. With `fast_key_heads` G, each head of q and k serves
    H / G consecutive heads of v (Qwen3-Next). Initial decay rates: those of fla's GatedDeltaNet, (0, 16), or
    `decay_rates`.
    """

    def __init__(self, config: ModelConfig) -> None:
        H, K, V = config.fast_shape
        G = config.fast_key_heads or H
        super().__init__(config, key_heads=G)
        self.key_heads = G
        self.conv_weight = nn.Parameter(torch.empty(2 * G * K + H * V, config.conv_size))
        self.A_log = nn.Parameter(torch.empty(H))
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.norm = RMSNorm(V, config.norm_eps)
        self.o_proj = nn.Linear(H * V, config.d_model, bias=False)
        init_decay(self.A_log, self.dt_bias, config.decay_rates or (0.0, 16.0))
        nn.init.uniform_(self.conv_weight, -(config.conv_size**-0.5), config.conv_size**-0.5)

    def forward(
        self, x: Tensor, state: Tensor, cache: ConvTail | None, ctx: PassContext
    ) -> tuple[Tensor, Tensor, ConvTail | None]:
        """x (B, n, D), state (B, H, K, V), last inputs of the convolution -> y (B, n, D), the new state
        and inputs (None unless `ctx.use_cache`)."""
        projected, taps = self.projected(x, ctx.shared), self.conv_weight
        if self.key_heads < self.state_shape[0]:
            projected, taps = self._spread(projected), self._spread(taps.mT).mT.contiguous()
        weights, before = (taps, self.A_log, self.dt_bias, self.norm.weight), cache.inputs if cache else None
        y, state, tail = delta_layer(projected, *weights, state, before, ctx.mask, self.beta_scale, self.norm.eps)
        (y,) = project(y, self.o_proj, shared=ctx.shared)
        return y, state, ConvTail(tail) if ctx.use_cache else None

    def _spread(self, x: Tensor) -> Tensor:
        """Repeats the q and k columns of (..., 2 G K + rest) for every head of v: (..., 2 H K + rest)."""
        (H, K, _), G = self.state_shape, self.key_heads
        shared, rest = x.split([2 * G * K, x.shape[-1] - 2 * G * K], dim=-1)
        return torch.cat([shared.unflatten(-1, (2 * G, K)).repeat_interleave(H // G, dim=-2).flatten(-2), rest], dim=-1)
