"""Attention against sums written out, positions against complex rotations."""

import math

import pytest
import torch

from lmsleep import AttentionCache, HybridConfig
from lmsleep.model.attention import Attention, Rotary
from lmsleep.ops.window_attention.sdpa import rotate, visibility


def complex_rotation(x, positions, theta=10_000.0):
    """Element j and j + K/2 are one complex number, turned by position * theta^(-2j/K)."""
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half], x[..., half:])
    angles = positions[:, None] * theta ** (-2 * torch.arange(half, dtype=torch.float64) / x.shape[-1])
    turned = z * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def test_channels_beyond_those_that_turn_stand_still():
    """Channels 0 and 1 turn, each with that half a head further on, as those of a head of four would."""
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got, turning = rotate(x, Rotary(8, 100.0, table_size=6, rotary_dim=4)(2, 5, x)), [0, 1, 4, 5]
    positions = torch.arange(2, 7, dtype=torch.float64)
    torch.testing.assert_close(got[..., turning], complex_rotation(x[..., turning], positions, 100.0))
    assert torch.equal(got[..., [2, 3, 6, 7]], x[..., [2, 3, 6, 7]])


def test_slow_rotations_are_stretched_and_fast_ones_are_not():
    """Rates 1, 0.1, 0.01 turn 10.2, 1.02 and 0.1 times in 64 tokens; between 1 and 4 times a part is kept."""
    like = torch.zeros(1, dtype=torch.float64)
    stretched = Rotary(6, 1000.0, table_size=4, scaling=(8.0, 1.0, 4.0, 64.0))(1, 1, like)
    part = (0.1 * 64 / (2 * math.pi) - 1) / (4 - 1)
    rates = [1.0, part * 0.1 + (1 - part) * 0.1 / 8, 0.01 / 8]
    for cos, sin, rate in zip(stretched[0][0], stretched[1][0], rates, strict=True):
        assert (float(cos), float(sin)) == pytest.approx((math.cos(rate), math.sin(rate)), abs=1e-12)


@pytest.mark.parametrize("start", [0, 3, 1_000_000])
def test_rotation_is_that_of_complex_numbers(start):
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = rotate(x, Rotary(8, 10_000.0, table_size=6)(start, 5, x))
    torch.testing.assert_close(got, complex_rotation(x, torch.arange(start, start + 5, dtype=torch.float64)))


def test_positions_far_in_a_stream_stay_exact_in_float32():
    like = torch.zeros(1)
    cos, sin = Rotary(4, 10_000.0, table_size=8)(10_000_000, 1, like)
    for j in range(2):
        angle = 10_000_000 * 10_000.0 ** (-2 * j / 4)
        assert float(cos[0, j]) == pytest.approx(math.cos(angle), abs=1e-6)
        assert float(sin[0, j]) == pytest.approx(math.sin(angle), abs=1e-6)


def test_a_table_made_without_gradients_serves_training():
    rotary = Rotary(4, 10_000.0, table_size=8)
    with torch.inference_mode():
        rotary(0, 3, torch.zeros(1))
    x = torch.ones(1, 1, 3, 4, requires_grad=True)
    rotate(x, rotary(0, 3, x)).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_table_that_was_cast_is_rounded_once(dtype):
    """By way of float32, some entries would be rounded twice."""
    cos, sin = Rotary(64, 10_000.0, table_size=512).to(dtype)(0, 512, torch.zeros(1, dtype=dtype))
    angles = torch.arange(512, dtype=torch.float64)[:, None] * 10_000.0 ** (-torch.arange(0, 64, 2).double() / 64)
    assert torch.equal(cos, angles.cos().to(dtype)) and torch.equal(sin, angles.sin().to(dtype))


def test_tables_go_with_the_model_and_not_into_its_state_dict(build):
    model = build("AG")
    assert not [name for name in model.state_dict() if "rotary" in name]
    assert [name for name, _ in model.to("meta").named_buffers()] == ["blocks.rotary.cos", "blocks.rotary.sin"]
    assert all(table.is_meta for table in model.buffers())


def test_visibility_is_a_band():
    """Three cached and two own tokens, each sees three: rows are queries, columns keys."""
    assert visibility(4, 0, 4, None, torch.device("cpu")) is None
    got = visibility(2, 3, 3, None, torch.device("cpu"))
    assert got[0, 0].int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    got = visibility(2, 3, 3, mask, torch.device("cpu"))
    assert got.shape == (2, 1, 2, 5)
    assert got[0, 0].int().tolist() == [[0, 1, 0, 1, 0], [0, 0, 0, 1, 1]]  # a masked token sees itself
    assert got[1, 0].int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]


def attend(attention, x, sees, first=0):
    """softmax(q k / sqrt(K)) v for each token over the positions that `sees[t]` lists, head by head; with the norms
    and the gate that there are."""
    K, groups = attention.head_dim, attention.q_proj.out_features // attention.k_proj.out_features
    T = x.shape[0]
    positions = torch.arange(first, first + T, dtype=torch.float64)
    q, k = (p(x).view(T, -1, K).transpose(0, 1) for p in (attention.q_proj, attention.k_proj))
    if attention.q_norm is not None:
        q, k = (
            y / torch.sqrt(y.square().mean(-1, keepdim=True) + 1e-6) * norm.weight
            for y, norm in ((q, attention.q_norm), (k, attention.k_norm))
        )
    q, k = complex_rotation(q, positions), complex_rotation(k, positions)
    v = attention.v_proj(x).view(T, -1, K).transpose(0, 1)
    out = torch.zeros(T, q.shape[0], K, dtype=x.dtype)
    for h in range(q.shape[0]):
        for t in range(T):
            scores = torch.stack([q[h, t] @ k[h // groups, s] / math.sqrt(K) for s in sees[t]]).softmax(0)
            out[t, h] = sum(w * v[h // groups, s] for w, s in zip(scores, sees[t], strict=True))
    gate = 1 if attention.g_proj is None else 1 / (1 + torch.exp(-attention.g_proj(x)))
    return attention.o_proj(out.flatten(1) * gate)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_kv_heads": 2},
        {"n_kv_heads": 1, "head_dim": 6, "attention_bias": True},
        {"n_kv_heads": 2, "qk_norm": True},
        {"attention_gate": True},
    ],
)
def test_attention_is_the_sum_written_out(build, options):
    model = build("A", n_heads=4, **options)
    attention = model.blocks.layers[0].mixer
    for norm in filter(None, (attention.q_norm, attention.k_norm)):
        torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, state, (k, v) = attention(x, None, None, model.blocks.context(x, model.init_cache(), None))
    assert state is None and k.shape == v.shape == (2, model.config.kv_heads, 6, attention.head_dim)
    for b in range(2):
        torch.testing.assert_close(y[b], attend(attention, x[b], [range(t + 1) for t in range(6)]))
    alone, _, left = attention(x, None, None, model.blocks.context(x, model.init_cache(), None, use_cache=False))
    assert left is None
    torch.testing.assert_close(alone, y)


def test_cached_tokens_are_seen_up_to_the_reach(build):
    """Nine tokens in two parts, of which each sees six: positions go on where the cache ends."""
    model = build("A", n_heads=4)
    attention, blocks = model.blocks.layers[0].mixer, model.blocks
    x = torch.randn(1, 9, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cache = AttentionCache(6)
    first, _, left = attention(x[:, :5], None, None, blocks.context(x[:, :5], cache, None))
    cache = cache.extended(5, (left,), None)
    second, _, _ = attention(x[:, 5:], None, left, blocks.context(x[:, 5:], cache, None))
    want = attend(attention, x[0], [range(max(0, t - 5), t + 1) for t in range(9)])
    torch.testing.assert_close(torch.cat([first, second], dim=1)[0], want)


def test_masked_tokens_are_not_seen(build):
    model = build("A", n_heads=4)
    attention = model.blocks.layers[0].mixer
    x = torch.randn(1, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[False, True, False, True, True]])
    sees = [[s for s in range(t + 1) if mask[0, s] or s == t] for t in range(5)]
    for keep in (True, False):
        y, _, _ = attention(x, None, None, model.blocks.context(x, model.init_cache(), mask, keep))
        torch.testing.assert_close(y[0], attend(attention, x[0], sees))


def test_what_is_not_kept_changes_no_output(build):
    """For a window behind cached tokens, and where attention slides."""
    model = build("AWA", n_heads=4, sliding_window=3)
    x = torch.randn(2, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    S, blocks = model.init_fast_weights(2), model.blocks
    start = model.init_cache()
    _, S, left = blocks.run(0, 3, x[:, :2], S, start, blocks.context(x[:, :2], start))
    for cache, tokens in ((start, x), (start.extended(2, left, None), x[:, 2:])):
        contexts = (blocks.context(tokens, cache, use_cache=keep) for keep in (True, False))
        (kept, _, _), (alone, _, _) = (blocks.run(0, 3, tokens, S, cache, ctx) for ctx in contexts)
        torch.testing.assert_close(alone, kept)


def test_only_relative_positions_matter(build):
    model = build("A")
    x = torch.randn(1, 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h_0, _ = model.blocks(x, model.init_fast_weights(1), AttentionCache(6))
    h_9, _ = model.blocks(x, model.init_fast_weights(1), AttentionCache(6, position=9))
    torch.testing.assert_close(h_0, h_9)


def test_flops_count_the_whole_window():
    assert Attention(HybridConfig(d_model=32, n_heads=4)).flops_per_token(10) == 4 * 10 * 32
