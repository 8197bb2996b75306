"""The inside of a gated delta layer from other ops of ours, each with a backend of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.ops.gated_delta import gated_delta
from lmsleep.ops.short_conv import conv_tail, dynamic_conv, short_conv


def delta_layer_torch(
    projected: Tensor,
    taps: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    weight: Tensor,
    state: Tensor,
    left: Tensor | None,
    mask: Tensor | None,
    per_token: bool,
    beta_scale: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`delta_layer_naive` without a loop over time, on any device and for any size.

    float16 is widened from end to end: gradients grow by up to 1,000 in each norm (of q and k, of o), for masked tokens
    too, and what overflows there is NaN once the mask has multiplied it by zero.
    """
    if projected.dtype == torch.float16:
        projected, taps = projected.float(), taps.float()
    H, K, V = state.shape[1:]
    mixed, gate, a, b = projected.split([2 * H * K + H * V, H * V, H, H], dim=-1)
    inputs = mixed[..., 2 * H * K :] if per_token else mixed
    log_decay = -A_log.exp() * F.softplus(a.to(dt_bias.dtype) + dt_bias)
    beta = beta_scale * b.to(log_decay.dtype).sigmoid()
    if mask is not None:
        inputs, log_decay, beta = (x * mask[..., None] for x in (inputs, log_decay, beta))
    if per_token:
        values = dynamic_conv(inputs, taps, left, activation="silu")
        mixed = torch.cat([F.silu(mixed[..., : 2 * H * K]), values], dim=-1)
    else:
        mixed = short_conv(inputs, taps, None, left, activation="silu")
    q, k, v = (x.unflatten(-1, (H, -1)).transpose(1, 2) for x in mixed.split([H * K, H * K, H * V], dim=-1))
    o, state = gated_delta(l2_normalise(q), l2_normalise(k), v, log_decay.mT, beta.mT, state)
    o = o.transpose(1, 2)
    o = F.rms_norm(o.to(weight.dtype), weight.shape, weight, eps).to(o.dtype) * F.silu(gate.unflatten(-1, (H, V)))
    return o.flatten(2), state, conv_tail(inputs, left, taps.shape[-1])


def l2_normalise(x: Tensor) -> Tensor:
    """x / sqrt(|x|^2 + 1e-6) over the last axis, (..., K) -> (..., K) in x's dtype, computed in float32 or wider.

    It is that of the kernels that Jet-Nemotron and Qwen3-Next were trained with. A row of zeros stays one.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + 1e-6)).to(x.dtype)
