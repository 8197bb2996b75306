"""The Jet layer against its formulas written token by token, at all window lengths, in train and eval mode."""

import math

import pytest
import torch
import torch.nn.functional as F

from lmsleep import HybridConfig
from lmsleep.model import PassContext
from lmsleep.model.jet import Jet
from lmsleep.ops import dynamic_conv

ALL = PassContext((torch.empty(0), torch.empty(0)))
CONFIG = HybridConfig(d_model=16, n_heads=2, fast_key_dim=6, fast_value_dim=12)


def layer(seed=0, config=CONFIG):
    torch.manual_seed(seed)
    made = Jet(config).double()
    with torch.no_grad():  # away from the initial values, at which the kernel is the same for every token
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made


def window(length, made, batch=2):
    return torch.randn(batch, length, 16, dtype=torch.float64), torch.randn(
        batch, *made.state_shape, dtype=torch.float64
    )


def token_by_token(made, x, S, beta_scale=1.0):
    """Section 1.2 of the paper and the released layer's formulas, one row, one head, one token at a time."""
    H, K, V = made.state_shape
    w = dict(made.named_parameters())
    w1, w2, bias = (w[f"dynamic_conv1d.kernel_generator.{n}"] for n in ("w1.weight", "w2.weight", "w2.bias"))
    values, outputs, states = x @ w["v_proj.weight"].T, torch.zeros_like(x), S.clone()
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            u = x[b, t]
            kernel = (w2 @ F.silu(w1 @ u) + bias).view(H * V, 4)
            v = sum(kernel[:, 3 - ago] * values[b, t - ago] for ago in range(min(t, 3) + 1))
            v = F.silu(v).view(H, V)
            q, k = (F.silu(w[f"{n}_proj.weight"] @ u).view(H, K) for n in "qk")
            rows = []
            for h in range(H):
                k_h, q_h = (z[h] / torch.sqrt(z[h].square().sum() + 1e-6) for z in (k, q))
                q_h = q_h / math.sqrt(K)
                a = torch.exp(-w["A_log"][h].exp() * F.softplus(w["a_proj.weight"][h] @ u + w["dt_bias"][h]))
                beta = beta_scale * torch.sigmoid(w["b_proj.weight"][h] @ u)
                old = states[b, h].clone()
                new = a * (old - beta * torch.outer(k_h, k_h @ old)) + beta * torch.outer(k_h, v[h])
                states = states.clone()
                states[b, h] = new
                o = new.T @ q_h
                o = o / torch.sqrt(o.square().mean() + made.o_norm.eps) * w["o_norm.weight"]
                rows.append(o * F.silu(w["g_proj.weight"].view(H, V, -1)[h] @ u))
            outputs[b, t] = w["o_proj.weight"] @ torch.cat(rows)
    return outputs, states


@pytest.mark.parametrize("length", [1, 3, 4, 24])
@pytest.mark.parametrize("negative", [False, True])
def test_equals_the_formulas(length, negative):
    made = layer(config=HybridConfig(**(CONFIG.to_dict() | {"allow_neg_eigval": negative})))
    x, S = window(length, made)
    with torch.no_grad():
        y, T, _ = made(x, S, None, ALL)
        want, states = token_by_token(made, x, S, 2.0 if negative else 1.0)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(T, states)


@pytest.mark.parametrize("length", [4, 24, 60, 64, 75, 129, 512, 4096])
def test_any_window_trains_and_evaluates_alike(length):
    made = layer()
    x, S = window(length, made, batch=1)
    y, T, _ = made.train()(x, S.requires_grad_(), None, ALL)
    (y.sum() + T.sum()).backward()
    for name, p in (*made.named_parameters(), ("S", S)):
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0, name
    with torch.no_grad():
        z, U, _ = made.eval()(x, S, None, ALL)
    assert torch.equal(y, z) and torch.equal(T, U)


def test_starts_with_one_kernel_for_all_tokens_and_leaves_it():
    torch.manual_seed(0)
    conv = Jet(CONFIG).dynamic_conv1d
    x, values = torch.randn(2, 9, 16), torch.randn(2, 9, 24)
    static = conv.kernel_generator.w2.bias.view(24, 1, 4)
    want = F.silu(F.conv1d(F.pad(values.mT, (3, 0)), static, groups=24)).mT
    torch.testing.assert_close(dynamic_conv(values, conv(x), activation="silu"), want)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves w2 away from zero, and only then w1 feels a gradient
        optimizer.zero_grad()
        dynamic_conv(values, conv(x), activation="silu").square().sum().backward()
        optimizer.step()
    assert conv.kernel_generator.w1.weight.grad.abs().sum() > 0
    assert conv.kernel_generator(x).std(dim=(0, 1)).min() > 0


def test_parameters_are_named_and_shaped_as_in_the_released_layer():
    H, K, V, D, hidden = 2, 6, 12, 16, 3
    assert {name: tuple(p.shape) for name, p in Jet(CONFIG).state_dict().items()} == {
        "q_proj.weight": (H * K, D),
        "k_proj.weight": (H * K, D),
        "v_proj.weight": (H * V, D),
        "a_proj.weight": (H, D),
        "b_proj.weight": (H, D),
        "g_proj.weight": (H * V, D),
        "o_proj.weight": (D, H * V),
        "o_norm.weight": (V,),
        "A_log": (H,),
        "dt_bias": (H,),
        "dynamic_conv1d.kernel_generator.w1.weight": (hidden, D),
        "dynamic_conv1d.kernel_generator.w2.weight": (H * V * 4, hidden),
        "dynamic_conv1d.kernel_generator.w2.bias": (H * V * 4,),
    }
