"""The gated delta rule: the closed form against the loop over time, and both against transformers."""

import pytest
import torch
import torch.nn.functional as F
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from lmsleep.ops import gated_delta

LENGTHS = [1, 2, 3, 24, 63, 64, 65, 75, 127, 128, 129, 191, 192, 193, 300]


def draw(length, K=5, V=4, with_state=True, seed=0):
    """Leaves (q, k, v, log_decay, beta[, state]) in float64; k has norm 1 and beta reaches 2."""
    g = torch.Generator().manual_seed(seed + length)

    def normal(*shape):
        return torch.randn(2, 3, *shape, generator=g, dtype=torch.float64)

    inputs = [
        normal(length, K),
        F.normalize(normal(length, K), dim=-1),
        normal(length, V),
        -F.softplus(normal(length) - 1),
        2 * torch.sigmoid(normal(length)),
    ]
    inputs += [normal(K, V)] if with_state else []
    return [x.requires_grad_() for x in inputs]


def values_and_gradients(inputs, backend, seed=1):
    """o, final state and the gradients of all inputs, with random gradients into both results."""
    o, state = gated_delta(*inputs, backend=backend)
    g = torch.Generator().manual_seed(seed)
    into = [torch.randn(x.shape, generator=g, dtype=x.dtype) for x in (o, state)]
    return [o, state, *torch.autograd.grad([o, state], inputs, into)]


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
def test_closed_form_equals_the_loop_in_values_and_gradients(length, with_state):
    inputs = draw(length, with_state=with_state)
    for got, want in zip(values_and_gradients(inputs, "torch"), values_and_gradients(inputs, "naive"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_the_loop_is_the_recurrence_of_the_paper():
    """S_t = a (I - b k k^T) S_(t-1) + b k v^T with the matrices written out, for one head."""
    inputs = [x[:1, :1].detach() for x in draw(7)]
    q, k, v, log_decay, beta, S = (x[0, 0] for x in inputs)
    outputs = []
    for t in range(7):
        kk = torch.outer(k[t], k[t])
        S = log_decay[t].exp() * (torch.eye(5) - beta[t] * kk) @ S + beta[t] * torch.outer(k[t], v[t])
        outputs.append(S.T @ q[t] / 5**0.5)
    o, state = gated_delta(*inputs, backend="naive")
    torch.testing.assert_close(o[0, 0], torch.stack(outputs))
    torch.testing.assert_close(state[0, 0], S)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_gradcheck(backend):
    inputs = [x[:1, :1].detach().requires_grad_() for x in draw(5, K=3, V=2)]
    assert torch.autograd.gradcheck(lambda *x: gated_delta(*x, backend=backend), inputs)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_a_graph_that_is_kept_gives_the_same_gradients_again(backend):
    inputs = draw(24)
    o, state = gated_delta(*inputs, backend=backend)
    first, again = (torch.autograd.grad(o.sum() + state.sum(), inputs, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("rule", [torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule])
@pytest.mark.parametrize("length", [1, 24, 64, 75, 150])
@pytest.mark.parametrize("with_state", [True, False])
def test_equals_transformers(rule, length, with_state):
    inputs = [x.detach().float() for x in draw(length, K=16, V=16, with_state=with_state)]
    o, state = gated_delta(*inputs)
    q, k, v, log_decay, beta = (x.transpose(1, 2) for x in inputs[:5])
    start = inputs[5] if with_state else None
    want, want_state = rule(q, k, v, log_decay, beta, initial_state=start, output_final_state=True)
    torch.testing.assert_close(o, want.transpose(1, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, want_state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", [1, 30, 130])
def test_two_calls_equal_one(cut):
    inputs = draw(160)
    first = [x[:, :, :cut] for x in inputs[:5]]
    o, state = gated_delta(*inputs)
    o_1, between = gated_delta(*first, inputs[5])
    o_2, last = gated_delta(*(x[:, :, cut:] for x in inputs[:5]), between)
    torch.testing.assert_close(torch.cat([o_1, o_2], dim=2), o)
    torch.testing.assert_close(last, state)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_no_decay_and_no_writing_keep_the_state_bit_for_bit(backend):
    q, k, v, log_decay, beta, state = draw(10)
    _, kept = gated_delta(q, k, v, 0 * log_decay, 0 * beta, state, backend)
    assert torch.equal(kept, state)


@pytest.mark.parametrize("backend", ["naive", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_very_strong_decay_stays_finite(backend, dtype):
    inputs = [x.detach().to(dtype).requires_grad_() for x in draw(60)]
    inputs[3] = torch.full_like(inputs[3], -500.0, requires_grad=True)
    for x in values_and_gradients(inputs, backend):
        assert torch.isfinite(x).all()


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_half_precision_inputs_compute_in_the_state_s_dtype(backend):
    inputs = [x.detach() for x in draw(24)]
    low = [x.bfloat16() for x in inputs[:5]]
    with torch.autocast("cpu", torch.bfloat16):
        o, state = gated_delta(*low, inputs[5].float(), backend)
        assert gated_delta(*low, backend=backend)[1].dtype == torch.float32
    want, want_state = gated_delta(*(x.double() for x in low), inputs[5], backend)
    assert o.dtype == torch.bfloat16
    torch.testing.assert_close(o.double(), want, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(state.double(), want_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("index", "name", "shape"),
    [
        (0, "q", (2, 3, 4, 5)),
        (2, "v", (2, 3, 4, 4)),
        (3, "log_decay", (2, 3)),
        (4, "beta", (2, 3, 9)),
        (5, "state", (2, 3, 4, 5)),
    ],
)
def test_a_wrong_shape_is_named(index, name, shape):
    inputs = draw(8)
    inputs[index] = torch.zeros(shape)
    with pytest.raises(
        ValueError, match=rf"^{name} must have shape \(.*\) to fit k \(2, 3, 8, 5\), got \({shape[0]}, "
    ):
        gated_delta(*inputs)
