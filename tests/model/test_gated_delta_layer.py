"""The gated delta layer against the one of transformers' Qwen3-Next, whose parameters it takes over."""

import pytest
import torch
from torch.nn.functional import softplus
from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet, l2norm

from lmsleep import HybridConfig
from lmsleep.model import PassContext
from lmsleep.model.gated_delta import GatedDelta
from lmsleep.model.layers import init_decay
from lmsleep.model.mixers import MIXERS
from lmsleep.ops.delta_layer.composed import l2_normalise

ALL = PassContext((torch.empty(0), torch.empty(0)))
D, H, K, V = 16, 4, 6, 10


def both_layers(G):
    """Ours and theirs with the same parameters, in float32."""
    torch.manual_seed(0)
    ours = GatedDelta(HybridConfig(d_model=D, n_heads=H, fast_key_dim=K, fast_value_dim=V, fast_key_heads=G))
    sizes = {"linear_num_key_heads": G, "linear_num_value_heads": H, "linear_key_head_dim": K}
    sizes |= {"linear_value_head_dim": V, "hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 1}
    theirs = Qwen3NextGatedDeltaNet(Qwen3NextConfig(**sizes, layer_types=["linear_attention"]), 0)

    def together(*layers):
        """Theirs stand together by heads of keys."""
        return torch.cat([p.weight.view(G, -1, D) for p in layers], dim=1).flatten(0, 1)

    with torch.no_grad():
        theirs.in_proj_qkvz.weight.copy_(together(ours.q_proj, ours.k_proj, ours.v_proj, ours.g_proj))
        theirs.in_proj_ba.weight.copy_(together(ours.b_proj, ours.a_proj))
        theirs.conv1d.weight.copy_(ours.conv_weight[:, None])
        theirs.norm.weight.copy_(ours.norm.weight.normal_())
        theirs.out_proj.weight.copy_(ours.o_proj.weight)
        theirs.A_log.copy_(ours.A_log)
        theirs.dt_bias.copy_(ours.dt_bias)
    return ours, theirs


@pytest.mark.parametrize("key_heads", [H, 2, 1])
@pytest.mark.parametrize("size", [1.0, 1e-3], ids=["ordinary inputs", "keys as small as the epsilon"])
def test_equals_transformers_layer_in_values_and_gradients(size, key_heads):
    ours, theirs = both_layers(key_heads)
    x = (size * torch.randn(2, 24, D)).requires_grad_()
    into = torch.randn(2, 24, D)
    got, want = ours(x, torch.zeros(2, H, K, V), None, ALL)[0], theirs(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    leaves = ([x, ours.conv_weight], [x, theirs.conv1d.weight])
    got, want = (torch.autograd.grad(y, leaf, into) for y, leaf in zip((got, want), leaves, strict=True))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b.view_as(a), rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_l2_normalising_is_transformers_own_down_to_zeros():
    x = torch.randn(3, 5, 8, dtype=torch.float64) * torch.logspace(-6, 2, 5, dtype=torch.float64)[:, None]
    x[0, 0] = 0
    torch.testing.assert_close(l2_normalise(x), l2norm(x))
    for dtype in (torch.float16, torch.bfloat16):
        low = x.to(dtype)
        assert torch.equal(l2_normalise(low), l2norm(low.float()).to(dtype))


@pytest.mark.parametrize(("letter", "low", "high"), [("G", 0.0, 16.0), ("J", 0.0, 16.0), ("M", 1.0, 16.0)])
def test_every_rule_has_initial_decays_of_its_own(letter, low, high):
    _, layer = MIXERS[letter]
    config = {"d_model": 8, "n_heads": 4, "fast_heads": 512, "fast_key_dim": 1, "fast_value_dim": 1}
    torch.manual_seed(0)
    made = layer(HybridConfig(**config))
    rates, steps = made.A_log.exp(), softplus(made.dt_bias)
    assert low <= rates.min() < low + 0.2 and high - 0.2 < rates.max() <= high
    assert 1e-3 <= steps.min() < 2e-3 and 5e-2 < steps.max() <= 0.1001
    chosen = layer(HybridConfig(**config, decay_rates=(0.5, 0.5)))
    torch.testing.assert_close(chosen.A_log.exp(), torch.full((512,), 0.5))


def test_a_rate_is_never_zero():
    """In bfloat16 a draw is 0 once in 256 times."""
    A_log, dt_bias = torch.empty(2, 10_000, dtype=torch.bfloat16)
    init_decay(A_log, dt_bias, (0.0, 16.0))
    assert A_log.isfinite().all()
