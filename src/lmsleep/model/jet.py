"""The Jet layer of Jet-Nemotron (arXiv 2508.15884): the gated delta rule with a dynamic convolution."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lmsleep.memory import ConvTail
from lmsleep.model.block import PassContext
from lmsleep.model.config import ModelConfig
from lmsleep.model.gated_delta import DeltaRule
from lmsleep.model.layers import RMSNorm, init_decay
from lmsleep.model.linear import project
from lmsleep.ops import jet_layer

REDUCTION = 8


class Jet(DeltaRule):
    """q, k = silu(W x), L2-normalised; v = silu(conv_x(W x)) with a kernel made from x; S written by the gated delta
    rule; y = W_o (norm(S^T q) * silu(W_g x)).

    Gates and initial decay rates as in `GatedDelta`; every head of v has its own of q and k. Parameters are named and
    shaped as in the released layer. Unlike there, nothing depends on the length of the window or on train or eval mode.
    """

    def __init__(self, config: ModelConfig) -> None:
        H, _, V = config.fast_shape
        super().__init__(config, key_heads=H)
        self.dynamic_conv1d = DynamicConv(config.d_model, H * V, config.conv_size)
        self.A_log = nn.Parameter(torch.empty(H))
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.o_norm = RMSNorm(V, config.fast_norm_eps or config.norm_eps)
        self.o_proj = nn.Linear(H * V, config.d_model, bias=False)
        init_decay(self.A_log, self.dt_bias, config.decay_rates or (0.0, 16.0))

    def forward(
        self, x: Tensor, state: Tensor, cache: ConvTail | None, ctx: PassContext
    ) -> tuple[Tensor, Tensor, ConvTail | None]:
        """x (B, n, D), state (B, H, K, V), last inputs of the convolution -> y (B, n, D), the new state
        and inputs (None unless `ctx.use_cache`)."""
        inputs, before = (self.projected(x, ctx.shared), self.dynamic_conv1d(x)), cache.inputs if cache else None
        gates, how = (self.A_log, self.dt_bias, self.o_norm.weight), (ctx.mask, self.beta_scale, self.o_norm.eps)
        y, state, tail = jet_layer(*inputs, *gates, state, before, *how)
        (y,) = project(y, self.o_proj, shared=ctx.shared)
        return y, state, ConvTail(tail) if ctx.use_cache else None


class DynamicConv(nn.Module):
    """The kernels of a causal depthwise convolution, W_2 silu(W_1 x) + b for each token x; W_1 reduces the width by 8.

    W_2 starts at zero, so that the kernel starts as b for all tokens; W_1 does not, or neither would get a gradient.
    """

    def __init__(self, d_model: int, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        hidden = max(1, dim // REDUCTION)
        self.kernel_generator = nn.Sequential(
            OrderedDict(w1=nn.Linear(d_model, hidden, bias=False), act=nn.SiLU(), w2=KernelHead(hidden, dim, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n, D) -> the kernels of its tokens, (B, n, dim, width)."""
        return self.kernel_generator(x).unflatten(-1, (-1, self.width))


class KernelHead(nn.Linear):
    """W h + b, (..., hidden) -> (..., dim * width), tap fastest; W starts at zero, b as the weights of `nn.Conv1d`."""

    def __init__(self, hidden: int, dim: int, width: int) -> None:
        self.width = width
        super().__init__(hidden, dim * width)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.uniform_(self.bias, -(self.width**-0.5), self.width**-0.5)
