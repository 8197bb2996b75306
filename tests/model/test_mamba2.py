"""The Mamba-2 layer against transformers' mixer with the same weights, and from a state to a state."""

import pytest
import torch

from lmsleep import HybridConfig
from lmsleep.model import PassContext
from lmsleep.model.mamba2 import Mamba2

NO_ROTARY = (torch.empty(0), torch.empty(0))
ALL = PassContext(NO_ROTARY)


def config_of(d_model, nheads, headdim, d_state, **options):
    """A configuration in the words of mamba-ssm."""
    sizes = {"n_heads": 1, "fast_heads": nheads, "fast_key_dim": d_state, "fast_value_dim": headdim}
    return HybridConfig(d_model=d_model, pattern="M", **sizes, **options)


def layer(seed=0, **options):
    torch.manual_seed(seed)
    made = Mamba2(config_of(16, nheads=4, headdim=8, d_state=6, **options))
    with torch.no_grad():  # away from the initial values, at which D and the norm weights are all equal
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def zeros(made, batch=2, dtype=torch.float32):
    return torch.zeros(batch, *made.state_shape, dtype=dtype)


def theirs(made, d_model=16):
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    H, P, N = made.state_shape
    config = modeling.Mamba2Config(
        hidden_size=d_model, num_heads=H, head_dim=P, state_size=N, n_groups=1, expand=H * P // d_model,
        conv_kernel=made.conv1d.kernel_size[0], chunk_size=16, use_bias=False, use_conv_bias=True, num_hidden_layers=1,
    )  # fmt: skip
    mixer = modeling.Mamba2Mixer(config, layer_idx=0)
    mixer.load_state_dict(made.state_dict())
    return mixer


@pytest.mark.parametrize("length", [1, 24, 75, 150])
def test_equals_transformers_mixer_in_values_and_gradients(length):
    made = layer()
    mixer = theirs(made)
    made.norm.eps = mixer.norm.variance_epsilon
    u = torch.randn(2, length, 16)
    ours, want = made(u, zeros(made), None, ALL)[0], mixer(u)
    torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(want)
    got = dict(zip(dict(made.named_parameters()), torch.autograd.grad(ours, made.parameters(), upstream), strict=True))
    mixer_grads = torch.autograd.grad(want, mixer.parameters(), upstream)
    for (name, _), grad in zip(mixer.named_parameters(), mixer_grads, strict=True):
        torch.testing.assert_close(got[name], grad, rtol=1e-3, atol=1e-4 * grad.abs().max().item(), msg=name)


def test_parameters_are_named_and_shaped_as_mamba_ssm_has_them():
    made = Mamba2(config_of(32, nheads=8, headdim=8, d_state=16))
    d_inner, conv_dim = 64, 64 + 2 * 16
    assert {name: tuple(p.shape) for name, p in made.state_dict().items()} == {
        "dt_bias": (8,),
        "A_log": (8,),
        "D": (8,),
        "in_proj.weight": (2 * d_inner + 2 * 16 + 8, 32),
        "conv1d.weight": (conv_dim, 1, 4),
        "conv1d.bias": (conv_dim,),
        "norm.weight": (d_inner,),
        "out_proj.weight": (32, d_inner),
    }
    assert set(layer(delta=True).state_dict()) - set(made.state_dict()) == {"correction_log"}


def test_delta_without_correction_is_mamba2():
    plain, delta = layer(), layer(delta=True)
    delta.load_state_dict(plain.state_dict() | {"correction_log": torch.full((4,), -20.0)})
    u, start = torch.randn(2, 24, 16), torch.randn(2, 4, 8, 6)
    for got, want in zip(delta(u, start, None, ALL)[:2], plain(u, start, None, ALL)[:2], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    delta.load_state_dict(plain.state_dict() | {"correction_log": torch.zeros(4)})
    assert not torch.allclose(delta(u, start, None, ALL)[0], plain(u, start, None, ALL)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("delta", [False, True])
def test_what_shapes_the_state_learns_through_the_state_alone(delta):
    """The outputs of a slept-on window are dropped; later windows feel it only through S."""
    made, later = layer(delta=delta), layer(seed=1, delta=delta)
    _, S, _ = made(torch.randn(2, 24, 16), torch.randn(2, 4, 8, 6), None, ALL)
    later(torch.randn(2, 4, 16), S, None, ALL)[0].square().sum().backward()
    shapes_state = {"in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "A_log"}
    shapes_state |= {"correction_log"} if delta else set()
    felt = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert felt == shapes_state
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


def test_config_gives_the_sizes():
    config = HybridConfig(d_model=32, fast_heads=2, fast_key_dim=8, fast_value_dim=24, conv_size=3, delta=True)
    made = Mamba2(config)
    assert made.state_shape == (2, 24, 8)
    assert made.conv1d.weight.shape == (2 * 24 + 2 * 8, 1, 3)
    assert made.correction_log is not None
    assert Mamba2(HybridConfig()).correction_log is None
    assert made.flops_per_token(24) == 6 * 2 * 24 * 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_equals_mamba_ssm_with_the_same_state_dict():
    pytest.importorskip("mamba_ssm")
    from mamba_ssm.modules.mamba2 import Mamba2 as Upstream

    torch.manual_seed(0)
    upstream = Upstream(64, d_state=32, headdim=16, use_mem_eff_path=False).cuda()
    made = Mamba2(config_of(64, nheads=8, headdim=16, d_state=32)).cuda()
    made.load_state_dict(upstream.state_dict())
    u = torch.randn(2, 75, 64, device="cuda")
    got = made(u, torch.zeros(2, *made.state_shape, device="cuda"), None, ALL)[0]
    torch.testing.assert_close(got, upstream(u), rtol=5e-3, atol=5e-3)
