"""The parallel sliding window against attention with a dense mask, and against reading by windows."""

import pytest
import torch
import torch.nn.functional as F

from lmsleep import read_windows
from lmsleep.bench.parallel import banded_sliding, parallel_hidden, parallel_twin


@pytest.mark.parametrize(("length", "reach"), [(1, 4), (4, 4), (5, 4), (23, 4), (12, 1), (7, 30)])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_banded_attention_equals_a_dense_mask(length, reach, kv_heads):
    torch.manual_seed(0)
    q = torch.randn(3, 2, length, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(3, kv_heads, length, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    place = torch.arange(length)
    seen = (place <= place[:, None]) & (place > place[:, None] - reach)
    got = banded_sliding(q, k, v, reach)
    wanted = F.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)
    torch.testing.assert_close(got, wanted)
    grads = (torch.autograd.grad((o * o.detach()).sum(), (q, k, v)) for o in (got, wanted))
    for grad, other in zip(*grads, strict=True):
        torch.testing.assert_close(grad, other)


@pytest.mark.parametrize(
    "options", [{}, {"pattern": "AM"}, {"pattern": "AJa", "n_kv_heads": 1}, {"attention_gate": True, "qk_norm": True}]
)
@pytest.mark.parametrize("length", [5, 17, 18])
def test_equals_reading_by_windows_with_sliding_eviction(build, draw_tokens, options, length):
    tokens = draw_tokens(2, length)
    wanted = read_windows(build(**options), tokens, n_passes=1, eviction="sliding").hidden
    torch.testing.assert_close(parallel_hidden(parallel_twin(build(**options)), tokens), wanted, rtol=1e-9, atol=1e-12)


def test_the_twin_shares_every_parameter(build):
    model = build("AGa")
    twin = parallel_twin(model)
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
