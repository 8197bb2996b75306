"""The Triton kernels of a delta layer, on a CPU through Triton's interpreter, against the loop over time in float64."""

import pytest
import torch
from delta_layers import draw, error_ratios, exact, low, outputs_and_gradients

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.interpreter,
    pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without CUDA"),
]


@pytest.fixture(autouse=True)
def kernels_by_name(monkeypatch):
    """backend="triton" on a CPU."""
    from lmsleep.ops import backend
    from lmsleep.ops.delta_layer.fused import delta_layer_triton

    monkeypatch.setitem(
        backend._TABLES["delta_layer"], "triton", backend.Backend("triton", lambda: delta_layer_triton, automatic=False)
    )
    for table in ("_LOADED", "_BROKEN", "_CHOSEN"):
        monkeypatch.setattr(backend, table, {})


CASES = [
    {"B": 1, "H": 2, "n": 24, "K": 16, "V": 16, "left": False},
    {"B": 2, "H": 2, "n": 4, "K": 16, "V": 24, "mask": True},
    {"B": 1, "H": 1, "n": 1, "K": 8, "V": 16},
    {"B": 1, "H": 2, "n": 33, "K": 24, "V": 16},
    {"B": 1, "H": 1, "n": 75, "K": 16, "V": 24, "mask": True},  # three chunks, K and V that are no powers of two
    {"B": 2, "H": 2, "n": 75, "K": 32, "V": 32},
    {"B": 1, "H": 1, "n": 128, "K": 16, "V": 16, "left": False},
    {"B": 9, "H": 1, "n": 3, "K": 16, "V": 16},  # two groups of rows
    {"B": 1, "H": 2, "n": 5, "K": 16, "V": 16, "width": 3},
    {"B": 1, "H": 2, "n": 24, "K": 16, "V": 24, "jet": True},
    {"B": 2, "H": 1, "n": 40, "K": 24, "V": 16, "jet": True, "mask": True, "left": False},
    {"B": 1, "H": 1, "n": 2, "K": 16, "V": 16, "jet": True},  # shorter than the convolution
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_loop_in_float32(case):
    assert max(all_ratios(case, torch.float32).values()) < 2e-5


@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[5], CASES[9]], ids=str)
def test_agrees_with_the_loop_in_bfloat16(case):
    ratios = all_ratios(case, torch.bfloat16)
    # Sums over all tokens, whose parts nearly cancel.
    assert max(ratios.pop("dA_log"), ratios.pop("ddt_bias")) < 0.025, ratios
    assert max(ratios.values()) < 0.01, ratios


@pytest.mark.parametrize("case", [CASES[0], {"B": 2, "H": 2, "n": 75, "K": 32, "V": 32, "mask": True}], ids=str)
def test_float16_keeps_a_float32_state_and_rounds_operands_once(case):
    ratios = all_ratios(case, torch.float16)
    assert max(ratios.values()) < 0.0025, ratios


def test_masked_tokens_in_float16_give_no_infinite_gradients():
    inputs, upstream = low(*draw(1, 2, 12, 16, 16, left=False), torch.float16)
    inputs["mask"] = torch.arange(12)[None] >= 6
    ratios = error_ratios(outputs_and_gradients(inputs, upstream, "triton"), expected(inputs, upstream))
    assert max(ratios.values()) < 0.002, ratios


@pytest.mark.parametrize("output", [0, 1, 2])
def test_gradients_of_one_output_alone(output):
    inputs, upstream = low(*draw(1, 1, 6, 16, 16), torch.float32)
    got = outputs_and_gradients(inputs, upstream, "triton", [output])
    want = outputs_and_gradients(*exact(inputs, upstream), "naive", [output])
    for name, x in want.items():
        torch.testing.assert_close(got[name], x, atol=1e-5, rtol=1e-4)


def test_two_windows_of_three_passes():
    inputs, upstream = draw(1, 2, 20, 16, 16, left=False)
    found = {}
    for backend, dtype in (("triton", torch.float32), ("naive", torch.float64)):
        leaves = {k: x.to(dtype).requires_grad_() for k, x in inputs.items() if x is not None}
        found[backend] = passes(leaves, upstream[0].to(dtype), backend)
    for got, want in zip(found["triton"], found["naive"], strict=True):
        torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-4)


def passes(leaves, upstream, backend):
    """The output and final state of two windows, each read three times, and the gradients of a sum of both."""
    from lmsleep.ops import delta_layer

    S, y = leaves["state"], 0.0
    rest = [leaves[name] for name in ("taps", "A_log", "dt_bias", "weight")]
    for window in (0, 1):
        x = leaves["projected"].roll(window, dims=1)
        for _ in range(3):
            y, S, _ = delta_layer(x, *rest, S, backend=backend)
            x = leaves["projected"] + torch.nn.functional.pad(y, (0, x.shape[-1] - y.shape[-1]))
    grads = torch.autograd.grad([y, S], list(leaves.values()), [upstream, torch.ones_like(S)])
    return y.detach(), S.detach(), *grads


def test_larger_heads_longer_windows_and_wider_convolutions_go_to_the_composition(monkeypatch):
    import sys

    from lmsleep.ops.delta_layer.fused import delta_layer_triton

    asked = []
    module = sys.modules["lmsleep.ops.delta_layer.fused"]
    monkeypatch.setattr(module, "delta_layer_torch", lambda *inputs: asked.append(inputs[0].shape))
    for options in ({"K": 128, "V": 128}, {"K": 8, "V": 200}, {"K": 256}, {"n": 129}, {"width": 5}):
        inputs, _ = draw(**({"B": 1, "H": 1, "n": 2, "K": 4, "V": 4} | options))
        delta_layer_triton(*inputs.values(), False, 1.0, 1e-6)
    assert len(asked) == 5


def test_is_one_node_of_a_compiled_graph(compiled_calls):
    from lmsleep.ops.delta_layer.fused import delta_layer_triton

    inputs, _ = low(*draw(1, 1, 6, 16, 16), torch.float32)
    arguments = (*inputs.values(), False, 1.0, 1e-6)
    outputs, calls = compiled_calls(delta_layer_triton, *arguments)
    torch.testing.assert_close(outputs, delta_layer_triton(*arguments))
    assert sum("delta_layer" in call for call in calls) == 1


def all_ratios(case, dtype):
    inputs, upstream = low(*draw(**case), dtype)
    return error_ratios(outputs_and_gradients(inputs, upstream, "triton"), expected(inputs, upstream))


def expected(inputs, upstream):
    return outputs_and_gradients(*exact(inputs, upstream), "naive")
