"""The inside of a gated delta and of a Jet layer: the loop over time against the other ops, and what both promise."""

import pytest
import torch
import torch.nn.functional as F
from delta_layers import draw, error_ratios, exact, low, outputs_and_gradients

from lmsleep.ops import delta_layer, dynamic_conv, gated_delta, jet_layer, short_conv, use_backend

SIZES = {"B": 2, "H": 2, "n": 7, "K": 3, "V": 5}


@pytest.mark.parametrize("jet", [False, True])
def test_the_definition_is_the_other_ops_one_after_the_other(jet):
    inputs, _ = draw(**SIZES, jet=jet, mask=True)
    B, H, n, K, V = SIZES.values()
    q, k, v, gate, a, b = inputs["projected"].split([H * K, H * K, H * V, H * V, H, H], dim=-1)
    counts = inputs["mask"][..., None].double()
    if jet:
        q, k = F.silu(q), F.silu(k)
        v = dynamic_conv(v * counts, inputs["taps"], inputs["left"], "silu", backend="naive")
    else:
        mixed = short_conv(torch.cat([q, k, v], -1) * counts, inputs["taps"], None, inputs["left"], backend="naive")
        q, k, v = mixed.split([H * K, H * K, H * V], dim=-1)
    q, k, v = (x.view(B, n, H, -1).transpose(1, 2) for x in (q, k, v))
    q, k = (x / torch.sqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    log_decay = -inputs["A_log"].exp() * F.softplus(a + inputs["dt_bias"]) * counts
    beta = 1.7 * b.sigmoid() * counts
    o, state = gated_delta(q, k, v, log_decay.mT, beta.mT, inputs["state"], backend="naive")
    y = F.rms_norm(o.transpose(1, 2), (V,), inputs["weight"], 1e-5).flatten(2) * F.silu(gate)
    layer = jet_layer if jet else delta_layer
    got, final, _ = layer(*inputs.values(), beta_scale=1.7, eps=1e-5, backend="naive")
    torch.testing.assert_close(got, y)
    torch.testing.assert_close(final, state)


@pytest.mark.parametrize("jet", [False, True])
@pytest.mark.parametrize("options", [{}, {"left": False}, {"mask": True}, {"n": 1}, {"n": 2, "mask": True}, {"n": 40}])
def test_the_composition_equals_the_definition(jet, options):
    inputs, upstream = draw(**(SIZES | options), jet=jet)
    got, want = (outputs_and_gradients(inputs, upstream, backend) for backend in ("torch", "naive"))
    ratios = error_ratios(got, want)
    assert max(ratios.values()) < 1e-12, ratios


@pytest.mark.parametrize("jet", [False, True])
def test_gradients_of_the_definition(jet):
    inputs, _ = draw(1, 1, 3, 2, 2, width=3, jet=jet, mask=True)
    *tensors, mask = inputs.values()
    layer = jet_layer if jet else delta_layer
    assert torch.autograd.gradcheck(lambda *x: layer(*x, mask, backend="naive"), [x.requires_grad_() for x in tensors])


@pytest.mark.parametrize("jet", [False, True])
@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_two_calls_equal_one(jet, backend):
    inputs, _ = draw(**SIZES, jet=jet)
    layer, taps = (jet_layer if jet else delta_layer), inputs["taps"]
    rest = [inputs[name] for name in ("A_log", "dt_bias", "weight")]
    for cut in (1, 2, 5):
        first, second = (taps[:, :cut], taps[:, cut:]) if jet else (taps, taps)
        y_1, S, left = layer(inputs["projected"][:, :cut], first, *rest, inputs["state"], backend=backend)
        y_2, S, _ = layer(inputs["projected"][:, cut:], second, *rest, S, left, backend=backend)
        y, want, _ = layer(inputs["projected"], taps, *rest, inputs["state"], backend=backend)
        torch.testing.assert_close(torch.cat([y_1, y_2], 1), y)
        torch.testing.assert_close(S, want)


@pytest.mark.parametrize("jet", [False, True])
@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_masked_tokens_on_the_left_leave_no_trace(jet, backend):
    inputs, _ = draw(**SIZES, jet=jet, left=False)
    layer = jet_layer if jet else delta_layer
    mask = torch.arange(7).expand(2, 7) >= 4
    y, S, tail = layer(**_named(inputs | {"mask": mask}, jet), backend=backend)
    cut = {"projected": inputs["projected"][:, 4:], "taps": inputs["taps"][:, 4:] if jet else inputs["taps"]}
    want = layer(**_named(inputs | cut, jet), backend=backend)
    for got, expected in zip((y[:, 4:], S, tail), want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("jet", [False, True])
def test_masked_tokens_in_float16_give_no_infinite_gradients(jet):
    inputs, upstream = low(*draw(1, 2, 12, 16, 16, left=False, jet=jet), torch.float16)
    inputs["mask"] = torch.arange(12)[None] >= 6
    upstream = [30 * x for x in upstream]
    want = outputs_and_gradients(*exact(inputs, upstream), "naive")
    ratios = error_ratios(outputs_and_gradients(inputs, upstream, "torch"), want)
    assert max(ratios.values()) < 0.002, ratios


def test_forcing_a_part_forces_the_composition_of_it():
    inputs, _ = draw(**SIZES)
    with use_backend(gated_delta="naive"):
        torch.testing.assert_close(delta_layer(*inputs.values()), delta_layer(*inputs.values(), backend="naive"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.015), (torch.float16, 0.005), (torch.float32, 2e-5)])
@pytest.mark.parametrize(
    "case",
    [
        {"B": 3, "H": 4, "n": 24, "K": 64, "V": 64, "left": False},
        {"B": 9, "H": 2, "n": 75, "K": 64, "V": 64, "mask": True},
        {"B": 2, "H": 2, "n": 75, "K": 64, "V": 64},
        {"B": 2, "H": 2, "n": 1, "K": 64, "V": 64},
        {"B": 2, "H": 2, "n": 4, "K": 32, "V": 64},
        {"B": 2, "H": 2, "n": 33, "K": 24, "V": 40, "mask": True},
        {"B": 1, "H": 2, "n": 128, "K": 64, "V": 128},
        {"B": 1, "H": 2, "n": 40, "K": 128, "V": 64},
        {"B": 2, "H": 2, "n": 24, "K": 128, "V": 256},  # the composition
        {"B": 2, "H": 2, "n": 24, "K": 64, "V": 64, "jet": True},
        {"B": 2, "H": 2, "n": 75, "K": 32, "V": 64, "jet": True, "mask": True},
    ],
    ids=str,
)
def test_the_kernels_equal_the_definition_in_float64(case, dtype, limit):
    inputs, upstream = low(*draw(**case), dtype, "cuda")
    got = outputs_and_gradients(inputs, upstream, "triton")
    again = outputs_and_gradients(inputs, upstream, "triton")
    ratios = error_ratios(got, outputs_and_gradients(*exact(inputs, upstream), "naive"))
    # Two sums over all tokens, whose parts nearly cancel.
    sums = [ratios.pop(name) for name in ("dA_log", "ddt_bias")]
    assert max(sums) < (0.02 if dtype == torch.bfloat16 else limit), (sums, ratios)
    assert max(ratios.values()) < limit, ratios
    assert all(torch.equal(got[name], again[name]) for name in got)  # no sum depends on which program comes first


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("projected", (2, 7, 30)),
        ("taps", (3, 4)),
        ("A_log", (3,)),
        ("weight", (3,)),
        ("left", (2, 2, 22)),
        ("mask", (2, 6)),
    ],
)
def test_a_shape_that_does_not_fit_is_one_sentence(name, shape):
    inputs, _ = draw(**SIZES)
    inputs[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"{name} must have shape .* to fit state \(2, 2, 3, 5\), got"):
        delta_layer(*inputs.values())


def test_a_state_of_another_batch_is_told_the_one_that_fits():
    inputs, _ = draw(**SIZES)
    inputs["state"] = inputs["state"][:1]
    expected = r"^state must have shape \(2, 2, 3, 5\) to fit projected \(2, 7, 36\), got \(1, 2, 3, 5\)$"
    with pytest.raises(ValueError, match=expected):
        delta_layer(*inputs.values())


def test_kernels_of_the_wrong_number_of_tokens_are_refused():
    inputs, _ = draw(**SIZES, jet=True)
    inputs["taps"] = inputs["taps"][:, 1:]
    with pytest.raises(ValueError, match=r"kernels must have shape \(2, 7, 10, 4\) to fit"):
        jet_layer(*inputs.values())


def _named(inputs, jet):
    return {"kernels" if jet and name == "taps" else name: x for name, x in inputs.items()}
