"""`ssd` and `ssd_delta` against their loops over time, and the loop against transformers' Mamba-2 scan."""

import pytest
import torch

from lmsleep.ops import gated_delta, ssd, ssd_delta
from lmsleep.ops.ssd.naive import ssd_delta_naive, ssd_naive

LENGTHS = [1, 2, 24, 65, 128, 129, 300]


def inputs(length, *, batch=2, heads=4, groups=2, P=3, N=5, dtype=torch.float64, seed=0):
    """x, dt, A, B, C, D, state with gradients, at the sizes Mamba-2 meets: dt from 0.001 to 1, A from -16 to -1."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    dt = 10 ** (3 * torch.rand(batch, length, heads, generator=g, dtype=torch.float64) - 3)
    A = -(1 + 15 * torch.rand(heads, generator=g, dtype=torch.float64))
    x, B, C = normal(batch, length, heads, P), normal(batch, length, groups, N), normal(batch, length, groups, N)
    tensors = [x, dt, A, B, C, normal(heads), normal(batch, heads, P, N)]
    return [t.to(dtype).requires_grad_() for t in tensors]


def results(op, tensors):
    """Outputs, final state, and the gradients of every input under random upstream gradients into both."""
    y, state = op(*tensors)
    g = torch.Generator().manual_seed(1)
    loss = sum((t * torch.randn(t.shape, generator=g, dtype=torch.float64).to(t)).sum() for t in (y, state))
    return [y, state, *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("length", LENGTHS)
def test_torch_equals_the_loop_in_values_and_gradients(length):
    tensors = inputs(length)
    for got, want in zip(results(ssd, tensors), results(ssd_naive, tensors), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("strength", [0.01, 30.0])
def test_delta_equals_its_loop_in_values_and_gradients(length, strength):
    tensors = inputs(length)
    tensors.append((strength * torch.linspace(0.5, 2, 4, dtype=torch.float64)).requires_grad_())
    for got, want in zip(results(ssd_delta, tensors), results(ssd_delta_naive, tensors), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("op", [ssd, lambda *a: ssd_delta(*a, correction=torch.ones(4, dtype=torch.float64))])
@pytest.mark.parametrize("cut", [1, 24, 100])
def test_two_windows_equal_one(op, cut):
    x, dt, A, B, C, D, state = inputs(150)
    whole = results(op, [x, dt, A, B, C, D, state])

    def in_two(x, dt, A, B, C, D, state):
        first, S = op(x[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], D, state)
        second, S = op(x[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], D, S)
        return torch.cat([first, second], dim=1), S

    for got, want in zip(results(in_two, [x, dt, A, B, C, D, state]), whole, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_no_state_is_the_zero_state_and_no_skip_is_the_zero_skip():
    x, dt, A, B, C, D, state = inputs(30)
    zero, no_skip = torch.zeros_like(state), torch.zeros_like(D)
    for got, want in zip(ssd(x, dt, A, B, C), ssd(x, dt, A, B, C, no_skip, zero), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_a_token_with_zero_dt_leaves_no_trace(backend):
    x, dt, A, B, C, D, state = inputs(30)
    kept = torch.arange(30) % 3 != 1
    silent = torch.where(kept[:, None], dt, 0.0)
    _, with_padding = ssd(x, silent, A, B, C, D, state, backend=backend)
    _, without = ssd(x[:, kept], dt[:, kept], A, B[:, kept], C[:, kept], D, state, backend=backend)
    torch.testing.assert_close(with_padding, without, rtol=1e-12, atol=1e-12)
    ones = torch.ones_like(A)
    _, with_padding = ssd_delta(x, silent, A, B, C, D, state, ones, backend=backend)
    _, without = ssd_delta(x[:, kept], dt[:, kept], A, B[:, kept], C[:, kept], D, state, ones, backend=backend)
    torch.testing.assert_close(with_padding, without, rtol=1e-12, atol=1e-12)


def test_definitions_pass_gradcheck():
    tensors = inputs(4, batch=1, heads=2, groups=1, P=2, N=3)
    assert torch.autograd.gradcheck(ssd_naive, tensors)
    correction = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ssd_delta_naive, [*tensors, correction])


@pytest.mark.parametrize("length", [1, 24, 75, 300])
@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_agrees_with_transformers(length, backend):
    oracle = pytest.importorskip("transformers.models.mamba2.modeling_mamba2").mamba2_chunk_scan
    tensors = inputs(length, dtype=torch.float32)

    def theirs(x, dt, A, B, C, D, state):
        return oracle(x, dt, A, B, C, chunk_size=32, D=D, initial_states=state, return_final_states=True)

    def ours(*tensors):
        return ssd(*tensors, backend=backend)

    for got, want in zip(results(ours, tensors), results(theirs, tensors), strict=True):
        torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_without_correction_delta_is_mamba2(backend):
    tensors = inputs(70)
    zero = torch.zeros(4, dtype=torch.float64)
    for got, want in zip(ssd_delta_naive(*tensors, zero), ssd_naive(*tensors), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)
    for got, want in zip(ssd_delta(*tensors, zero, backend=backend), ssd(*tensors), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)  # ops clamp the correction at 1e-6


def test_delta_is_the_gated_delta_rule():
    """With |B| = 1, writing strength b = λ e and values x / λ, the delta form is the gated delta rule as published."""
    x, dt, A, B, C, _, state = inputs(20, groups=4)
    B = torch.nn.functional.normalize(B, dim=-1)
    λ = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    b = λ * dt / (1 + λ * dt)
    per_head = (C, B, x / λ[:, None], dt * A, b)
    o, S = gated_delta(*(t.transpose(1, 2) for t in per_head), state.mT, backend="naive")
    y, got = ssd_delta(x, dt, A, B, C, None, state, λ)
    torch.testing.assert_close(got, S.mT)
    torch.testing.assert_close(y, o.transpose(1, 2) * C.shape[-1] ** 0.5)


def test_correction_of_one_recalls_what_mamba2_piles_up():
    """Writing x under the same B again and again, the delta rule ends at S B = x, where Mamba-2 ends far above it."""
    x = torch.ones(1, 200, 1, 3, dtype=torch.float64)
    B = torch.full((1, 200, 1, 4), 0.5, dtype=torch.float64)
    dt, A = torch.full((1, 200, 1), 0.2, dtype=torch.float64), torch.full((1,), -1e-9, dtype=torch.float64)
    y, _ = ssd_delta(x, dt, A, B, B, None, None, torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(y[:, -1], x[:, -1])
    y, _ = ssd(x, dt, A, B, B)
    torch.testing.assert_close(y[:, -1], 40 * x[:, -1], rtol=1e-6, atol=0)


def test_half_precision_keeps_the_state_in_float32_under_autocast():
    exact = ssd(*inputs(40))
    x, dt, A, B, C, D, state = inputs(40, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, S = ssd(x.bfloat16(), dt, A, B.bfloat16(), C.bfloat16(), D, state)
        z, T = ssd_delta(x.bfloat16(), dt, A, B.bfloat16(), C.bfloat16(), D, state, torch.ones(4))
    assert y.dtype == z.dtype == torch.bfloat16
    assert S.dtype == T.dtype == torch.float32
    torch.testing.assert_close(S.double(), exact[1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (2, 8, 4)), ("dt", (2, 8, 3)), ("A", (5,)), ("C", (2, 8, 2, 4)), ("D", (1,)), ("state", (2, 4, 5, 3))],
)
def test_wrong_shapes_are_named(name, shape):
    tensors = dict(zip(("x", "dt", "A", "B", "C", "D", "state"), inputs(8), strict=True))
    tensors[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^{name} must"):
        ssd(**tensors)
    with pytest.raises(ValueError, match=f"^{name} must"):
        ssd_delta(**tensors, correction=torch.ones(4))


def test_groups_must_divide_heads_and_correction_is_per_head():
    x, dt, A, B, C, D, state = inputs(8)
    with pytest.raises(ValueError, match="the 3 groups of B must divide the 4 heads"):
        ssd(x, dt, A, torch.zeros(2, 8, 3, 5), torch.zeros(2, 8, 3, 5), D, state)
    with pytest.raises(ValueError, match=r"correction must have shape \(4,\) to fit x .*, got \(1,\)"):
        ssd_delta(x, dt, A, B, C, D, state, torch.ones(1))
