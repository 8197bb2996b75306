"""Muon against torch's own and against a singular value decomposition, AdamW against torch's, bit for bit."""

import math

import pytest
import torch

from lmsleep.training import MuonAdamW, OptimizerConfig
from lmsleep.training.optimizer import orthogonalise

SHAPES = [(8, 8), (12, 6), (6, 12), (12, 6), (5, 1), (1, 5)]


def draw(shapes, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=dtype) for shape in shapes]


def train(optimizer, parameters, steps, start=0):
    for step in range(start, start + steps):
        for p, grad in zip(parameters, draw([p.shape for p in parameters], 100 + step), strict=True):
            p.grad = grad.to(p.dtype)
        optimizer.step()


def copies(tensors):
    return [torch.nn.Parameter(t.clone()) for t in tensors]


def test_adamw_is_torch_s_bit_for_bit():
    start = draw([(4, 3), (7,), (2, 2, 2), ()])
    options = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    mine, theirs = copies(start), copies(start)
    train(MuonAdamW([{"params": mine, "muon": False, **options}]), mine, 5)
    train(torch.optim.AdamW(theirs, **options, foreach=True), theirs, 5)
    assert all(map(torch.equal, mine, theirs))


def quintic(s):
    """Jordan's polynomial, five times, on a singular value."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize("shape", [(8, 8), (12, 6), (6, 12), (1, 5), (40, 30)])
def test_orthogonalising_maps_the_singular_values_and_keeps_the_spaces(shape):
    (matrix,) = draw([shape], dtype=torch.float64)
    U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    want = U @ torch.diag(quintic(s / s.norm())) @ Vh
    torch.testing.assert_close(orthogonalise(matrix[None])[0], want, rtol=1e-6, atol=1e-6)


def test_singular_values_end_near_one():
    """Those that are not tiny beside the norm; the coefficients aim at the range 0.7 to 1.2."""
    g = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(16, 16, generator=g, dtype=torch.float64))[0] for _ in range(2))
    matrix = U @ torch.diag(torch.linspace(0.05, 1, 16, dtype=torch.float64)) @ V
    values = torch.linalg.svdvals(orthogonalise(matrix[None])[0])
    assert values.min() > 0.6 and values.max() < 1.3


def test_matrices_of_one_shape_do_not_mix():
    matrices = torch.stack(draw([(6, 4)] * 3, dtype=torch.float64))
    matrices[1] *= 1e3
    together = orthogonalise(matrices)
    for one, got in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalise(one[None])[0], got)


def test_a_zero_gradient_moves_nothing():
    assert not orthogonalise(torch.zeros(1, 4, 3)).any()


def test_muon_is_torch_s_up_to_its_bfloat16():
    options = {"lr": 2e-2, "momentum": 0.95, "weight_decay": 0.1}
    mine, theirs = copies(draw(SHAPES)), copies(draw(SHAPES))
    train(MuonAdamW([{"params": mine, "muon": True, **options}]), mine, 4)
    train(torch.optim.Muon(theirs, **options, nesterov=True, adjust_lr_fn="original"), theirs, 4)
    for start, a, b in zip(draw(SHAPES), mine, theirs, strict=True):
        assert torch.nn.functional.cosine_similarity((a - start).flatten(), (b - start).flatten(), dim=0) > 0.999
        assert float((a - b).detach().norm() / (b - start).detach().norm()) < 0.03


def test_a_muon_step_written_out():
    """Nesterov momentum, decoupled decay, and the scale sqrt(max(1, rows / columns)), in float64."""
    (start,) = draw([(12, 6)], dtype=torch.float64)
    (p,) = copies([start])
    optimizer = MuonAdamW([{"params": [p], "muon": True, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}])
    momentum, want = torch.zeros_like(start), start
    for seed in range(3):
        (p.grad,) = draw([(12, 6)], seed, torch.float64)
        momentum = 0.9 * momentum + 0.1 * p.grad
        U, s, Vh = torch.linalg.svd(0.1 * p.grad + 0.9 * momentum, full_matrices=False)
        step = U @ torch.diag(quintic(s / s.norm())) @ Vh
        want = want * (1 - 0.1 * 0.5) - 0.1 * math.sqrt(2) * step
        optimizer.step()
    torch.testing.assert_close(p.detach(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[::-1]])
def test_tall_matrices_in_a_batch_with_wide_ones_take_the_steps_of_their_own(monkeypatch, shapes):
    """As on a card."""
    options = {"muon": True, "lr": 2e-2, "momentum": 0.95, "weight_decay": 0.1}
    apart, together = (copies(draw(shapes, dtype=torch.float64)) for _ in range(2))
    train(MuonAdamW([{"params": apart, **options}]), apart, 3)
    monkeypatch.setattr("lmsleep.training.optimizer._batch_key", lambda p: tuple(sorted(p.shape)))
    train(MuonAdamW([{"params": together, **options}]), together, 3)
    torch.testing.assert_close(together, apart, rtol=1e-7, atol=1e-9)


def built(build, **options):
    model = build("AGA", dtype=torch.float32, **options)
    return model, OptimizerConfig(muon_lr=1e-2, adamw_lr=1e-3).build(model.blocks, model)


# Width, MLP, vocabulary; heads, key and value size of the fast weights; taps; hidden width of Jet's kernel generator.
D, MLP, VOCABULARY, H, K, V, TAPS, HIDDEN = 16, 24, 7, 2, 6, 20, 4, 5
ATTENTION = (4 * D * D, 0)
DELTA = 2 * D * H * K + 3 * D * H * V + 2 * D * H  # q, k; v, g, o; the two gates
MIXERS = {  # parameters by Muon and by AdamW
    "A": ATTENTION,
    "W": ATTENTION,
    "G": (DELTA, TAPS * (2 * H * K + H * V) + 2 * H + V),  # convolution; A_log, dt_bias; norm
    "J": (DELTA + D * HIDDEN + HIDDEN * H * V * TAPS, H * V * TAPS + 2 * H + V),  # bias of the kernels; as above
    # z, x, B, C, dt; out. Convolution and its bias; A_log, dt_bias, D; norm.
    "M": (D * (2 * H * V + 2 * K + H) + H * V * D, (TAPS + 1) * (H * V + 2 * K) + 3 * H + H * V),
}


@pytest.mark.parametrize("letter", [*MIXERS, *map(str.lower, MIXERS)])
def test_muon_takes_the_linear_layers_of_every_block_counted_by_hand(build, letter):
    model = build(letter, torch.float32, sliding_window=3, fast_key_dim=K, fast_value_dim=V)
    muon, adamw = MIXERS[letter.upper()]
    if letter.isupper():
        muon, adamw = muon + 3 * D * MLP, adamw + D  # the MLP and its norm
    adamw += D + D + 2 * VOCABULARY * D  # norm before the mixer, last norm, embedding and head
    groups = OptimizerConfig().build(model.blocks, model).param_groups
    assert [group["muon"] for group in groups] == [True, False]
    assert [sum(p.numel() for p in group["params"]) for group in groups] == [muon, adamw]


def test_biases_and_what_is_outside_the_blocks_are_left_to_adamw(build):
    model, optimizer = built(build, attention_bias=True)
    names = {id(p): name for name, p in model.named_parameters()}
    muon, adamw = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert muon | adamw == set(names.values()) and not muon & adamw
    assert {"embedding.weight", "head.weight", "norm.weight", "blocks.layers.0.mixer.q_proj.bias"} <= adamw
    assert {f"blocks.layers.1.mixer.{n}" for n in ("A_log", "dt_bias", "conv_weight", "norm.weight")} <= adamw


@pytest.mark.parametrize(("options", "decay"), [({"weight_decay": 0.1}, 0.1), ({}, 1e-4)])
def test_every_parameter_decays_and_without_a_word_as_in_the_code_that_the_recipe_follows(build, options, decay):
    model = build("AGMJ")
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    OptimizerConfig(muon_lr=1, adamw_lr=1, **options).build(model.blocks, model).step()
    for p, start in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), start * (1 - decay), rtol=1e-12, atol=0)


def test_frozen_parameters_are_left_out(build):
    model = build("AG", dtype=torch.float32)
    for p in model.parameters():
        p.requires_grad_(False)
    model.head.weight.requires_grad_(True)
    optimizer = OptimizerConfig().build(model.blocks, model)
    assert [group["params"] for group in optimizer.param_groups] == [[model.head.weight]]


def test_a_parameter_without_gradient_stays(build):
    model, optimizer = built(build)
    before = [p.detach().clone() for p in model.parameters()]
    model.head.weight.grad = torch.ones_like(model.head.weight)
    optimizer.step()
    for (name, p), old in zip(model.named_parameters(), before, strict=True):
        assert torch.equal(p, old) == (name != "head.weight")


def test_state_dict_round_trip_goes_on_bit_for_bit(build, tmp_path):
    model, optimizer = built(build)
    train(optimizer, list(model.parameters()), 3)
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    other, resumed = built(build)
    weights, state = torch.load(tmp_path / "state.pt")
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    for m, o in ((model, optimizer), (other, resumed)):
        train(o, list(m.parameters()), 3, start=3)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_step_returns_the_closure_s_loss(build):
    model, optimizer = built(build)

    def closure():
        loss = model.head.weight.square().sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.requires_grad and model.head.weight.square().sum() < loss


def test_the_schedule_warms_up_stays_and_decays():
    factor = OptimizerConfig(warmup_steps=4, decay_fraction=0.2, final_ratio=0.1).schedule(100)
    assert [factor(s) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert {factor(s) for s in range(4, 81)} == {1.0}
    assert [factor(s) for s in (85, 90, 100, 120)] == pytest.approx([0.775, 0.55, 0.1, 0.1])
    constant = OptimizerConfig(warmup_steps=0, decay_fraction=0).schedule(10)
    assert {constant(s) for s in range(12)} == {1.0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"muon_lr": -1}, "muon_lr must be finite and 0 or more, got -1"),
        ({"muon_lr": math.nan}, "muon_lr must be finite and 0 or more, got nan"),
        ({"adamw_lr": -0.1}, "adamw_lr must be finite and 0 or more, got -0.1"),
        ({"adamw_lr": math.inf}, "adamw_lr must be finite and 0 or more, got inf"),
        ({"weight_decay": -1}, "weight_decay must be finite and 0 or more, got -1"),
        ({"warmup_steps": -1}, "warmup_steps must be finite and 0 or more, got -1"),
        ({"decay_fraction": 1.5}, "decay_fraction must be between 0 and 1, got 1.5"),
        ({"momentum": 2}, "momentum must be between 0 and 1, got 2"),
        ({"momentum": math.nan}, "momentum must be between 0 and 1, got nan"),
        ({"betas": (0.9, 1.5)}, r"betas must be two numbers of at least 0 and below 1, got \(0.9, 1.5\)"),
        ({"betas": (math.nan, 0.9)}, r"betas must be two numbers of at least 0 and below 1, got \(nan, 0.9\)"),
        ({"betas": (0.9,)}, r"betas must be two numbers of at least 0 and below 1, got \(0.9,\)"),
        ({"betas": None}, r"betas must be tuple\[float, float\], got None"),
        ({"eps": -1}, "eps must be finite and more than 0, got -1"),
        ({"eps": math.nan}, "eps must be finite and more than 0, got nan"),
        ({"grad_clip": 0}, "grad_clip must be finite and more than 0, or None, got 0"),
        ({"grad_clip": math.nan}, "grad_clip must be finite and more than 0, or None, got nan"),
    ],
)
def test_a_bad_value_is_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        OptimizerConfig(**change)
