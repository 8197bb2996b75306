"""A residual sum with its norm: every implementation against the definition in float64, values and all gradients."""

import pytest
import torch
from torch.nn import RMSNorm

from lmsleep.ops import add_norm
from lmsleep.ops.add_norm.naive import add_norm_naive

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
mark = pytest.mark.gpu if DEVICE == "cuda" else pytest.mark.interpreter
CASES = [(3, 5, 16), (2, 24, 256), (700, 24), (1, 1, 40)]  # (..., D); 700 rows: several programs and blocks of them


@pytest.fixture(params=["torch", pytest.param("triton", marks=mark)])
def op(request):
    if request.param == "torch":
        return lambda *inputs: add_norm(*inputs, backend="torch")
    pytest.importorskip("triton")
    from lmsleep.ops.add_norm.fused import add_norm_triton

    return add_norm_triton


def draw(shape, stream, added, with_y=True):
    """h, y and weight in their dtypes, and gradients of the sum and of the norm."""
    g = torch.Generator().manual_seed(len(shape))

    def normal(*shape, dtype):
        return torch.randn(*shape, generator=g).to(DEVICE, dtype).requires_grad_()

    leaves = [normal(*shape, dtype=stream), normal(*shape, dtype=added) if with_y else None]
    weight = (1 + 0.3 * torch.randn(shape[-1], generator=g)).to(DEVICE, stream).requires_grad_()
    return [*leaves, weight], [normal(*shape, dtype=stream).detach(), normal(*shape, dtype=added).detach()]


def results(op, inputs, upstream, used=(0, 1)):
    outputs = op(*inputs, 1e-5, upstream[1].dtype)
    leaves = [x for x in inputs if x is not None]
    grads = torch.autograd.grad(
        [outputs[i] for i in used], leaves, [upstream[i].to(outputs[i].dtype) for i in used], allow_unused=True
    )
    pairs = zip(leaves, grads, strict=True)
    return [*(x.detach() for x in outputs), *(torch.zeros_like(x) if g is None else g for x, g in pairs)]


def exact(inputs, upstream):
    wide = [None if x is None else x.detach().double().requires_grad_() for x in inputs]
    return wide, [x.double() for x in upstream]


def assert_close(got, want, limit):
    for name, (a, b) in enumerate(zip(got, want, strict=True)):
        error = ((a.double() - b).norm() / b.norm().clamp(min=1e-30)).item()
        assert error < limit, (name, error)


@pytest.mark.parametrize("shape", CASES, ids=str)
@pytest.mark.parametrize("with_y", [True, False])
def test_agrees_with_the_definition(op, shape, with_y):
    inputs, upstream = draw(shape, torch.float32, torch.float32, with_y)
    assert_close(results(op, inputs, upstream), results(add_norm_naive, *exact(inputs, upstream)), 2e-6)


@pytest.mark.parametrize("shape", CASES[:3], ids=str)
def test_narrow_additions_to_a_float32_stream(op, shape):
    inputs, upstream = draw(shape, torch.float32, torch.bfloat16)
    got = results(op, inputs, upstream)
    assert [x.dtype for x in got] == [inputs[0].dtype, torch.bfloat16, torch.float32, torch.bfloat16, torch.float32]
    assert_close(got, results(add_norm_naive, *exact(inputs, upstream)), 0.006)
    assert_close(got[2:3], results(add_norm_naive, *exact(inputs, upstream))[2:3], 2e-6)  # the stream itself is not cut


def test_a_narrow_stream_is_rounded_before_its_norm(op):
    inputs, _ = draw((2, 24, 64), torch.float16, torch.float16)
    s, x = op(*inputs, 1e-5, torch.float16)
    assert torch.equal(s, inputs[0] + inputs[1])
    torch.testing.assert_close(x, add_norm_naive(s, None, inputs[2], 1e-5, s.dtype)[1], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("used", [(0,), (1,)])
@pytest.mark.parametrize("added", [torch.float32, torch.bfloat16])
def test_gradients_of_one_output_alone(op, used, added):
    inputs, upstream = draw((2, 5, 16), torch.float32, added)
    got = results(op, inputs, upstream, used)
    assert_close(
        got, results(add_norm_naive, *exact(inputs, upstream), used), 2e-6 if added == torch.float32 else 0.006
    )


def test_any_strides_do(op):
    inputs, upstream = draw((6, 5, 16), torch.float32, torch.float32)
    h, y, weight = (x.detach() for x in inputs)
    across = [h.transpose(0, 1), y.mT.contiguous().mT.transpose(0, 1), weight]
    across = [x.requires_grad_() for x in across]
    upstream = [x.transpose(0, 1) for x in upstream]
    assert_close(results(op, across, upstream), results(add_norm_naive, *exact(across, upstream)), 2e-6)


def test_the_definition_is_that_of_torch():
    norm, x = RMSNorm(8, eps=1e-5, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    torch.nn.init.normal_(norm.weight)
    torch.testing.assert_close(add_norm_naive(x, x, norm.weight, 1e-5, x.dtype), (2 * x, norm(2 * x)))


def test_is_one_node_of_a_compiled_graph(compiled_calls):
    pytest.importorskip("triton")
    from lmsleep.ops.add_norm.fused import add_norm_triton

    inputs, _ = draw((2, 16), torch.float32, torch.float32)
    outputs, calls = compiled_calls(add_norm_triton, *inputs, 1e-6, torch.float32)
    torch.testing.assert_close(outputs, add_norm_triton(*inputs, 1e-6, torch.float32))
    assert sum("add_norm" in call for call in calls) == 1


def test_bad_input_is_named():
    h = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"weight must have shape \(3,\) to fit h \(2, 3\), got \(2,\)"):
        add_norm(h, None, torch.zeros(2))
    with pytest.raises(ValueError, match=r"y must have shape \(2, 3\) to fit h \(2, 3\), got \(2, 2\)"):
        add_norm(h, h[:, :2], torch.zeros(3))
