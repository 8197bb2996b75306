"""The Triton kernel of attention inside a window against its definition in float64: on the card where there is one, in
Triton's interpreter elsewhere."""

import pytest
import torch

from lmsleep.model.attention import Rotary
from lmsleep.ops.window_attention.naive import window_attention_naive

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.gpu if DEVICE == "cuda" else pytest.mark.interpreter
# The interpreter cannot multiply in bfloat16.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3} | ({torch.bfloat16: 0.012} if DEVICE == "cuda" else {})
CASES = [  # B, n, H, G, K
    (1, 1, 1, 1, 16),
    (11, 4, 2, 2, 64),  # units that do not fill the last program
    (3, 24, 2, 2, 24),  # a head that is no power of two
    (2, 24, 4, 2, 32),
    (1, 33, 4, 1, 16),
    (1, 64, 2, 1, 64),
    (1, 40, 2, 2, 128),
]


@pytest.fixture
def op():
    from lmsleep.ops.window_attention.fused import window_attention_triton

    return window_attention_triton


def draw(B, n, H, G, K, *, masked=False, dtype=torch.float32):
    """q, k and v as parts of one tensor, the output's gradient, rotary and mask."""
    g = torch.Generator().manual_seed(n)
    joined = torch.randn(B, n, (H + 2 * G) * K, generator=g).to(DEVICE, dtype).requires_grad_()
    upstream = torch.randn(B, n, H * K, generator=g).to(DEVICE, dtype)
    mask = (torch.rand(B, n, generator=g) > 0.4).to(DEVICE) if masked else None
    rotary = Rotary(K, 10_000.0, table_size=n).to(DEVICE)(0, n, torch.zeros(0, device=DEVICE))
    return joined, [H * K, G * K, G * K], upstream, rotary, mask


def results(op, joined, sizes, upstream, rotary, mask):
    """o, dq, dk, dv in float64."""
    o = op(*joined.split(sizes, dim=-1), rotary, mask)
    (gradient,) = torch.autograd.grad(o, joined, upstream.to(o.dtype))
    return [x.double() for x in (o.detach(), *gradient.split(sizes, dim=-1))]


def in_float64(joined, sizes, upstream, rotary, mask):
    wide = joined.detach().double().requires_grad_()
    return wide, sizes, upstream.double(), tuple(part.double() for part in rotary), mask


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_agrees_with_the_definition_in_values_and_gradients(op, case, masked, dtype):
    if dtype == torch.float32 and case[4] > 64:
        pytest.skip("beyond what a program holds in float32")
    drawn = draw(*case, masked=masked, dtype=dtype)
    got, want = results(op, *drawn), results(window_attention_naive, *in_float64(*drawn))
    for name, a, b in zip(("o", "dq", "dk", "dv"), got, want, strict=True):
        # Of one token alone the weights are 1 whatever q and k are.
        error = ((a - b).norm() / b.norm().clamp(min=1e-3)).item()
        assert error < TOLERANCE[dtype], (name, error)


def test_any_strides_do(op):
    """Projections by themselves, transposed rows, and a gradient that is one number for all."""
    joined, sizes, _, rotary, _ = draw(4, 8, 2, 2, 16)
    parts = [x.detach().transpose(0, 1).contiguous().transpose(0, 1) for x in joined.split(sizes, dim=-1)]
    parts[1] = parts[1].mT.contiguous().mT  # the last axis is not dense
    grads = []
    for op_ in (op, window_attention_naive):
        leaves = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in parts]
        grads.append(torch.autograd.grad(op_(*leaves, rotary, None).sum(), leaves))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_twice_the_same_is_the_same_to_the_bit(op):
    drawn = draw(3, 24, 4, 1, 16, masked=True)
    for a, b in zip(results(op, *drawn), results(op, *drawn), strict=True):
        assert torch.equal(a, b)


def test_is_one_node_of_a_compiled_graph(op, compiled_calls):
    joined, sizes, _, rotary, _ = draw(2, 6, 1, 1, 16)

    def attention(x):
        return op(*x.split(sizes, dim=-1), rotary, None)

    outputs, calls = compiled_calls(attention, joined)
    torch.testing.assert_close(outputs, attention(joined))
    assert sum("window_attention" in call for call in calls) == 1


def test_the_gradients_are_parts_of_one_tensor(op):
    """That of a joined projection is then there without a copy."""
    joined, sizes, upstream, rotary, _ = draw(2, 6, 2, 1, 16)
    leaves = [x.detach().requires_grad_() for x in joined.split(sizes, dim=-1)]
    grads = torch.autograd.grad(op(*leaves, rotary, None), leaves, upstream)
    assert len({g.untyped_storage().data_ptr() for g in grads}) == 1
    assert [g.storage_offset() for g in grads] == [0, 32, 48] and grads[0].stride() == (6 * 64, 64, 1)
