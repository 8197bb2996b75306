"""Causal attention inside a window, with rotary positions."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from lmsleep.model.config import HybridConfig
from lmsleep.model.linear import project
from lmsleep.ops import window_attention
from lmsleep.ops.window_attention.sdpa import attend, rotate


@dataclass(frozen=True)
class Span:
    """Where the tokens of a pass stand.

    Args:
        rotary: cos and sin (n, head_dim / 2) of their positions.
        visible: (B or 1, 1, n, m + n) bool over the m cached and the n own tokens, or None where plain causality says
            it all.
        mask: (B, n) bool, False for tokens that must leave no trace, or None.
        near: as `visible`, for sliding attention, which sees fewer of them.
        slot: (1,) where a single token overwrites cached keys and values, which then stand in buffers of
            fixed size; None: the cache grows.
        keep: whether later tokens of the window will ask for what these leave behind.
    """

    rotary: tuple[Tensor, Tensor]
    visible: Tensor | None = None
    mask: Tensor | None = None
    near: Tensor | None = None
    slot: Tensor | None = None
    keep: bool = True


class Rotary(nn.Module):
    """Rotary positions: a table for the first ones; angles in float64, so that endless streams keep exact ones."""

    def __init__(self, head_dim: int, theta: float, table_size: int) -> None:
        super().__init__()
        self.head_dim, self.theta, self.table_size = head_dim, theta, table_size
        self._table: tuple[Tensor, Tensor] | None = None

    def forward(self, start: int, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (n, head_dim / 2) of the n positions from `start` on, in dtype and on the device of `like`."""
        if start + n > self.table_size:
            return self.at(torch.arange(start, start + n, device=like.device), like)
        table = self._table
        if table is None or table[0].device != like.device or table[0].dtype != like.dtype:
            with torch.inference_mode(False):  # a table made while validating must serve training too
                table = self._table = self.at(torch.arange(self.table_size, device=like.device), like)
        return table[0][start : start + n], table[1][start : start + n]

    def at(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The same for any positions (n,)."""
        exponents = torch.arange(0, self.head_dim, 2, device=like.device, dtype=torch.float64) / self.head_dim
        angles = positions[:, None].double() * self.theta**-exponents
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


class Attention(nn.Module):
    """Softmax attention (paper eq. 2), 2 D^2 (1 + kv_heads / heads) parameters. It has no fast weights.

    Args:
        reach: tokens that a token sees of the visible ones, itself included (sliding attention); None: all.
    """

    state_shape = None

    def __init__(self, config: HybridConfig, reach: int | None = None) -> None:
        super().__init__()
        self.reach = reach
        self.head_dim = config.attention_head_dim
        width, kv_width = config.n_heads * self.head_dim, config.kv_heads * self.head_dim
        self.q_proj = nn.Linear(config.d_model, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.d_model, kv_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.d_model, kv_width, bias=config.attention_bias)
        self.o_proj = nn.Linear(width, config.d_model, bias=False)

    def forward(
        self, x: Tensor, state: None, left: tuple[Tensor, ...], span: Span
    ) -> tuple[Tensor, None, tuple[Tensor, ...]]:
        """x (B, n, D); left: keys and values (B, H, m, K) of the cached tokens, or empty. Returns y (B, n, D), None and
        keys and values of the m + n tokens, or the buffers that `span.slot` wrote to; nothing unless `span.keep`."""
        q, k, v = project(x, self.q_proj, self.k_proj, self.v_proj)
        if not (left or span.keep) and (self.reach is None or x.shape[1] <= self.reach):
            return project(window_attention(q, k, v, span.rotary, span.mask), self.o_proj)[0], None, ()
        q, k, v = (rearrange(y, "b n (h k) -> b h n k", k=self.head_dim) for y in (q, k, v))
        q, k = rotate(q, span.rotary), rotate(k, span.rotary)
        if span.slot is not None:
            k, v = left[0].index_copy_(2, span.slot, k), left[1].index_copy_(2, span.slot, v)
        elif left:
            k, v = torch.cat([left[0], k], dim=2), torch.cat([left[1], v], dim=2)
        o = self.attend(q, k, v, span.visible if self.reach is None else span.near)
        return project(rearrange(o, "b h n k -> b n (h k)"), self.o_proj)[0], None, (k, v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """q (B, H, n, K) against k and v (B, kv_heads, m + n, K): (B, H, n, K). `visible` as in `Span`."""
        return attend(q, k, v, visible)

    def flops_per_token(self, window_size: int) -> int:
        """Scores and values against all that a token sees; the projections are counted by the block."""
        return 4 * min(window_size, self.reach or window_size) * self.q_proj.out_features
