"""The Triton kernel of one window, on a CPU through Triton's interpreter, against the loop over time in float64."""

import pytest
import torch
import torch.nn.functional as F

from lmsleep.ops.gated_delta.naive import gated_delta_naive

pytest.importorskip("triton")

NAMES = ("o", "state", "dq", "dk", "dv", "dlog_decay", "dbeta", "dstate")
ON_CPU = not torch.cuda.is_available()

interpreter = pytest.mark.interpreter
only_cpu = pytest.mark.skipif(not ON_CPU, reason="the interpreter is for machines without CUDA")


def draw(B, H, L, K, V, *, same_key=False, neg_eigval=False):
    """Inputs and output gradients in float64, in the layouts the layer makes: (B, L, H, ...) seen as (B, H, L, ...)."""
    generator = torch.Generator().manual_seed(L)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = (F.normalize(normal(B, L, H, K), dim=-1).transpose(1, 2) for _ in range(2))
    k = k[:, :, :1].expand_as(k) if same_key else k
    v, log_decay = normal(B, L, H, V).transpose(1, 2), -0.3 * normal(B, L, H).abs().mT
    beta = (1 + neg_eigval) * normal(B, L, H).sigmoid().mT
    return [q, k, v, log_decay, beta, normal(B, H, K, V)], [normal(B, H, L, V), normal(B, H, K, V)]


def outputs_and_gradients(op, inputs, upstream, dtypes):
    inputs = [x.to(dtype).requires_grad_() for x, dtype in zip(inputs, dtypes, strict=True)]
    o, state = op(*inputs)
    grads = torch.autograd.grad([o, state], inputs, [upstream[0].to(o.dtype), upstream[1].to(state.dtype)])
    return [x.double() for x in (o.detach(), state.detach(), *grads)]


def worst_ratios(got, expected):
    """Root mean square of the error over that of the value."""
    pairs = zip(NAMES, got, expected, strict=True)
    return {name: ((a - b).square().mean() / b.square().mean()).sqrt().item() for name, a, b in pairs}


@only_cpu
@interpreter
@pytest.mark.parametrize(
    "case",
    [
        {"B": 1, "H": 2, "L": 24, "K": 16, "V": 16},
        {"B": 2, "H": 1, "L": 75, "K": 24, "V": 40},  # three chunks, sizes that are no powers of two
        {"B": 1, "H": 1, "L": 5, "K": 16, "V": 80},  # two column blocks
        {"B": 1, "H": 1, "L": 1, "K": 8, "V": 8},
        {"B": 1, "H": 1, "L": 128, "K": 16, "V": 16, "neg_eigval": True},
        # Repeated keys: the inverse by a series of powers would lose every digit here.
        {"B": 1, "H": 1, "L": 40, "K": 16, "V": 16, "same_key": True, "neg_eigval": True},
    ],
    ids=str,
)
def test_agrees_with_the_loop_in_float32(case):
    from lmsleep.ops.gated_delta.fused import gated_delta_triton

    inputs, upstream = draw(**case)
    got = outputs_and_gradients(gated_delta_triton, inputs, upstream, [torch.float32] * 6)
    expected = outputs_and_gradients(gated_delta_naive, inputs, upstream, [torch.float64] * 6)
    ratios = worst_ratios(got, expected)
    assert max(ratios.values()) < 1e-5, ratios


@only_cpu
@interpreter
def test_half_inputs_keep_a_float32_state():
    from lmsleep.ops.gated_delta.fused import gated_delta_triton

    inputs, upstream = draw(B=1, H=2, L=24, K=16, V=16)
    half, full = torch.float16, torch.float32  # the interpreter cannot multiply in bfloat16
    dtypes = [full, full, half, full, full, full]  # what autocast gives: q and k come normalised in float32
    inputs[2] = inputs[2].to(half).double()
    o, state = gated_delta_triton(*(x.to(dtype) for x, dtype in zip(inputs, dtypes, strict=True)))
    assert o.dtype == half and state.dtype == full
    got = outputs_and_gradients(gated_delta_triton, inputs, upstream, dtypes)
    ratios = worst_ratios(got, outputs_and_gradients(gated_delta_naive, inputs, upstream, [torch.float64] * 6))
    assert max(ratios.values()) < 0.01, ratios


@only_cpu
@interpreter
def test_gradients_of_one_output_alone():
    from lmsleep.ops.gated_delta.fused import gated_delta_triton

    inputs, _ = draw(B=1, H=1, L=6, K=16, V=16)
    for output in (0, 1):
        grads = []
        for op, dtype in ((gated_delta_triton, torch.float32), (gated_delta_naive, torch.float64)):
            leaves = [x.to(dtype).requires_grad_() for x in inputs]
            grads.append(torch.autograd.grad(op(*leaves)[output].square().sum(), leaves, allow_unused=True))
        for got, expected in zip(*grads, strict=True):
            expected = torch.zeros_like(got) if expected is None else expected.float()
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@only_cpu
@interpreter
def test_is_one_node_of_a_compiled_graph(compiled_calls):
    from lmsleep.ops.gated_delta.fused import gated_delta_triton

    inputs, _ = draw(B=1, H=1, L=6, K=16, V=16)
    inputs = [x.float() for x in inputs]
    outputs, calls = compiled_calls(gated_delta_triton, *inputs)
    torch.testing.assert_close(outputs, gated_delta_triton(*inputs))
    assert sum("gated_delta_window" in call for call in calls) == 1
