"""The activation of a gated feed-forward layer: every implementation against the definition in float64."""

import pytest
import torch

from lmsleep.ops import swiglu
from lmsleep.ops.swiglu.naive import swiglu_naive

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
mark = pytest.mark.gpu if DEVICE == "cuda" else pytest.mark.interpreter


@pytest.fixture(params=["torch", pytest.param("triton", marks=mark)])
def op(request):
    if request.param == "torch":
        return lambda *inputs: swiglu(*inputs, backend="torch")
    pytest.importorskip("triton")
    from lmsleep.ops.swiglu.fused import swiglu_triton

    return swiglu_triton


def results(op, gate, up, upstream):
    y = op(gate, up)
    return [x.detach().double() for x in (y, *torch.autograd.grad(y, [gate, up], upstream.to(y.dtype)))]


@pytest.mark.parametrize("shape", [(2, 3, 24), (37, 688), (1, 4, 5), (5, 300)], ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 0.008), (torch.float16, 0.001)])
@pytest.mark.parametrize("joined", [True, False])
def test_agrees_with_the_definition(op, shape, dtype, limit, joined):
    g = torch.Generator().manual_seed(0)
    both = (3 * torch.randn(*shape[:-1], 2 * shape[-1], generator=g)).to(DEVICE, dtype)
    parts = [x.requires_grad_() if joined else x.contiguous().requires_grad_() for x in both.chunk(2, dim=-1)]
    upstream = torch.randn(*shape, generator=g).to(DEVICE, dtype)
    got = results(op, *parts, upstream)
    want = results(swiglu_naive, *(x.detach().double().requires_grad_() for x in parts), upstream.double())
    for name, a, b in zip(("y", "dgate", "dup"), got, want, strict=True):
        assert ((a - b).norm() / b.norm()).item() < limit, name


def test_large_gates_stay_finite(op):
    gate = torch.tensor([-200.0, -90.0, 0.0, 90.0, 200.0], device=DEVICE)[None].requires_grad_()
    got = results(op, gate, torch.ones_like(gate).requires_grad_(), torch.ones_like(gate))
    torch.testing.assert_close(got[0], torch.tensor([[0.0, 0.0, 0.0, 90.0, 200.0]]).to(got[0]))
    torch.testing.assert_close(got[1], torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]).to(got[1]))


@mark
def test_the_gradients_are_parts_of_one_tensor():
    pytest.importorskip("triton")
    from lmsleep.ops.swiglu.fused import swiglu_triton

    gate, up = (x.requires_grad_() for x in torch.randn(4, 6, 16, device=DEVICE).chunk(2, dim=-1))
    dgate, dup = torch.autograd.grad(swiglu_triton(gate, up).sum(), [gate, up])
    assert dgate.untyped_storage().data_ptr() == dup.untyped_storage().data_ptr()
    assert dup.storage_offset() == 8 and dup.stride() == dgate.stride() == (6 * 16, 16, 1)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"up must have shape \(2, 3\) to fit gate \(2, 3\), got \(2, 4\)"):
        swiglu(torch.zeros(2, 3), torch.zeros(2, 4))
