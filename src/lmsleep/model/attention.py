"""Causal attention inside a window, with rotary positions."""

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lmsleep.memory import KV
from lmsleep.model.block import PassContext
from lmsleep.model.config import ModelConfig
from lmsleep.model.layers import RMSNorm
from lmsleep.model.linear import project
from lmsleep.ops import window_attention
from lmsleep.ops.window_attention.sdpa import attend, rotate


class Rotary(nn.Module):
    """Rotary position embeddings: a table for the first positions; angles in float64, exact in endless streams.

    Args: as `head_dim`, `rope_theta`, `rotary_dim` and `rope_scaling` of `HybridConfig`; table_size: rows of the table.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        head_dim: int,
        theta: float,
        table_size: int,
        rotary_dim: int | None = None,
        scaling: tuple[float, float, float, float] | None = None,
    ) -> None:
        super().__init__()
        self.head_dim, self.theta, self.rotary_dim, self.scaling = head_dim, theta, rotary_dim or head_dim, scaling
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.empty(table_size, head_dim // 2), persistent=False)
        self.fill()

    def fill(self, like: Tensor | None = None) -> None:
        """Computes the tables (table_size, head_dim / 2), with dtype and device of `like`; None: those they have."""
        like = self.cos if like is None else like
        self.cos, self.sin = self.at(torch.arange(len(self.cos), device=like.device), like)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.fill()  # a table that was cast would be rounded twice
        return self

    def forward(self, start: int, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (n, head_dim / 2) of the n positions from `start` on, in the dtype of `like`."""
        if start + n > len(self.cos) or like.dtype != self.cos.dtype:
            return self.at(torch.arange(start, start + n, device=like.device), like)
        return self.cos[start : start + n], self.sin[start : start + n]

    def at(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, for any positions (n,)."""
        exponents = torch.arange(0, self.rotary_dim, 2, device=positions.device, dtype=torch.float64) / self.rotary_dim
        rates = self.theta**-exponents
        if self.scaling is not None:
            factor, low, high, length = self.scaling
            kept = ((rates * (length / (2 * math.pi)) - low) / (high - low)).clamp(0, 1)
            rates = rates * (kept + (1 - kept) / factor)
        angles = positions[:, None].double() * F.pad(rates, (0, (self.head_dim - self.rotary_dim) // 2))
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


class Attention(nn.Module):
    """Softmax attention (paper eq. 2), 2 D^2 (1 + kv_heads / heads) parameters. It has no fast weights.

    Args:
        config: sizes, biases (`attention_bias`), norms of q and k (`qk_norm`), and `attention_gate`.
        sliding_window: tokens that a token sees, itself included (sliding attention); None: all that are visible.
    """

    state_shape = None

    def __init__(self, config: ModelConfig, sliding_window: int | None = None) -> None:
        super().__init__()
        D, K, bias = config.d_model, config.attention_head_dim, config.attention_bias
        self.head_dim, self.sliding_window = K, sliding_window
        self.q_proj = nn.Linear(D, config.n_heads * K, bias=bias)
        self.k_proj = nn.Linear(D, config.kv_heads * K, bias=bias)
        self.v_proj = nn.Linear(D, config.kv_heads * K, bias=bias)
        self.o_proj = nn.Linear(config.n_heads * K, D, bias=False)
        self.g_proj = nn.Linear(D, config.n_heads * K, bias=False) if config.attention_gate else None
        self.q_norm = RMSNorm(K, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(K, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, state: None, cache: KV | None, ctx: PassContext) -> tuple[Tensor, None, KV | None]:
        """x (B, n, D), keys and values of m cached tokens -> y (B, n, D), None, keys and values of m + n tokens (the
        same buffers with `ctx.cache_slot`; None unless `ctx.use_cache`)."""
        layers = self.q_proj, self.k_proj, self.v_proj, *([self.g_proj] if self.g_proj else ())
        q, k, v, *gate = project(x, *layers, shared=ctx.shared)
        if self.q_norm and self.k_norm:
            q = self.q_norm(q.unflatten(-1, (-1, self.head_dim))).flatten(-2)
            k = self.k_norm(k.unflatten(-1, (-1, self.head_dim))).flatten(-2)
        if not (cache or ctx.use_cache) and (self.sliding_window is None or x.shape[1] <= self.sliding_window):
            return self._output(window_attention(q, k, v, ctx.rotary, ctx.mask), gate, ctx), None, None
        q, k, v = (rearrange(y, "b n (h k) -> b h n k", k=self.head_dim) for y in (q, k, v))
        q, k = rotate(q, ctx.rotary), rotate(k, ctx.rotary)
        if cache and ctx.cache_slot is not None:
            k, v = cache.keys.index_copy_(2, ctx.cache_slot, k), cache.values.index_copy_(2, ctx.cache_slot, v)
        elif cache:
            k, v = torch.cat([cache.keys, k], dim=2), torch.cat([cache.values, v], dim=2)
        o = self.attend(q, k, v, ctx.visible if self.sliding_window is None else ctx.visible_sliding)
        return self._output(rearrange(o, "b h n k -> b n (h k)"), gate, ctx), None, KV(k, v) if ctx.use_cache else None

    def _output(self, o: Tensor, gate: list[Tensor], ctx: PassContext) -> Tensor:
        """(B, n, H K) -> (B, n, D)."""
        return project(o * gate[0].sigmoid() if gate else o, self.o_proj, shared=ctx.shared)[0]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """q (B, H, n, K) against k and v (B, kv_heads, m + n, K): (B, H, n, K). `visible` as in `PassContext`."""
        return attend(q, k, v, visible)

    def flops_per_token(self, window_size: int) -> int:
        """Scores and weighted values over all visible tokens; the block counts the projections."""
        return 4 * min(window_size, self.sliding_window or window_size) * self.q_proj.out_features
