"""Fast weights and attention cache are values: operations return new ones."""

import pytest
import torch

from lmsleep import AttentionCache, FastWeights
from lmsleep.memory import KV, ConvTail


def fast_weights():
    g = torch.Generator().manual_seed(0)
    return FastWeights((torch.randn(3, 2, 4, 5, generator=g), torch.randn(3, 2, 4, 4, generator=g)))


def test_zeros_has_one_state_a_layer():
    S = FastWeights.zeros([(2, 4, 5), (2, 3, 3)], batch_size=3, dtype=torch.float64)
    assert [s.shape for s in S.states] == [(3, 2, 4, 5), (3, 2, 3, 3)]
    assert all(s.dtype == torch.float64 and not s.any() for s in S.states)
    assert len(S) == 2 and S[1] is S.states[1]


def test_operations_leave_the_old_value_alone():
    S = fast_weights()
    before = [s.clone() for s in S.states]
    changed = S.with_layers({1: torch.zeros(3, 2, 4, 4)})
    assert changed[0] is S[0] and not changed[1].any()
    assert S.to(dtype=torch.float64)[0].dtype == torch.float64
    for now, then in zip(S.states, before, strict=True):
        assert torch.equal(now, then)
    with pytest.raises(AttributeError):
        S.states = ()


def test_detach_cuts_the_gradient():
    S = FastWeights((torch.ones(1, 1, 1, 1, requires_grad=True) * 2,))
    assert S[0].requires_grad and not S.detach()[0].requires_grad
    assert torch.equal(S.detach()[0], S[0])


def test_norms_are_frobenius_per_layer_and_row():
    S = fast_weights()
    want = [[float(torch.linalg.matrix_norm(s[b].flatten(0, 1))) for b in range(3)] for s in S.states]
    torch.testing.assert_close(S.norms(), torch.tensor(want))
    assert S.nbytes == 4 * 3 * 2 * (20 + 16)


def filled(eviction_capacity=4, n=6, mask=None):
    kv = torch.arange(n, dtype=torch.float32).expand(2, 3, n)[..., None].expand(2, 3, n, 5)
    cache = AttentionCache(eviction_capacity)
    return cache.extended(n, (KV(kv, kv + 100), ConvTail(torch.ones(2, 3, 7)), None), mask)


def test_a_cache_is_full_when_the_next_token_does_not_fit():
    cache = AttentionCache(3)
    assert cache.room == 3 and not cache.full
    cache = cache.extended(2, (), None)
    assert (cache.room, cache.full, cache.position, cache.held) == (1, False, 2, 2)
    cache = cache.extended(1, (), None)
    assert (cache.room, cache.full, cache.position, cache.held) == (0, True, 3, 3)


def test_hard_eviction_empties_the_cache():
    assert filled().evict("hard") == AttentionCache(4)
    assert filled().evict("hard").nbytes == 0


def test_sliding_eviction_keeps_the_newest_tokens_and_the_convolution():
    mask = torch.tensor([[False] * 4 + [True] * 2] * 2)
    before = filled(mask=mask)
    after = before.evict("sliding")
    assert (after.held, after.fresh, after.position, after.room) == (3, 0, 6, 4)
    k, v = after.layer(0)
    assert k[0, 0, :, 0].tolist() == [3, 4, 5] and v[0, 0, :, 0].tolist() == [103, 104, 105]
    assert after.layer(1)[0].shape == (2, 3, 7)
    assert after.mask.tolist() == [[False, True, True]] * 2
    assert before.held == 6 and before.layer(0)[0].shape[2] == 6


def test_an_unknown_eviction_is_named():
    with pytest.raises(ValueError, match=r"^eviction must be one of hard, sliding, got 'soft'$"):
        filled().evict("soft")
