"""The model as a whole: a pass is a pure function, and token by token equals in one go."""

import pytest
import torch

from lmsleep import AttentionCache, FastWeights

PATTERNS = ["AG", "GA", "AGAG", "AM", "AJ"]


def close(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


def test_the_contract_of_shapes(build, draw_tokens):
    model = build("AGAG", fast_heads=3, fast_key_dim=4, fast_value_dim=5)
    S = model.init_fast_weights(2)
    assert isinstance(S, FastWeights) and [s.shape for s in S.states] == [(2, 3, 4, 5)] * 2
    h, after = model.blocks(model.embed(draw_tokens(2, 6)), S)
    assert h.shape == (2, 6, 16) and model.logits(h).shape == (2, 6, 7)
    assert [s.shape for s in after.states] == [s.shape for s in S.states]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pass_mutates_nothing(build, draw_tokens, pattern):
    model, tokens = build(pattern), draw_tokens(2, 6)
    h, S = model.blocks(model.embed(tokens), model.init_fast_weights(2))
    wake = model.wake(tokens[:, :3], S, model.init_cache())
    before = [h, *S.states, *(x for left in wake.cache.layers for x in left or ())]
    copies = [x.clone() for x in before]
    model.blocks(h, S)
    model.wake(tokens[:, 3:], S, wake.cache)
    model.loop_pass(wake.core, wake.S, wake)
    assert all(map(torch.equal, before, copies))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1, 1), (2, 4), (5, 1)])
@pytest.mark.parametrize("position", [0, 2])
def test_token_by_token_equals_in_one_go(build, draw_tokens, pattern, parts, position):
    """The observation that the code rests on: pass 1 of Algorithm 1 is the wake pass."""
    model, tokens = build(pattern), draw_tokens(2, 6)
    S = FastWeights(tuple(torch.full_like(s, 0.3) for s in model.init_fast_weights(2).states))
    start = AttentionCache(6, position=position)
    whole = model.wake(tokens, S, start)
    cache, hidden = start, []
    for part in tokens.split(parts, dim=1):
        wake = model.wake(part, S, cache)
        S, cache = wake.S, wake.cache
        hidden.append(wake.h)
    close([torch.cat(hidden, dim=1), *S.states], [whole.h, *whole.S.states])
    for left, wanted in zip(cache.layers, whole.cache.layers, strict=True):
        close(left, wanted)
    assert cache.full and cache.position == position + 6


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_later_token_has_no_influence_on_an_earlier_one(build, draw_tokens, pattern):
    model, tokens = build(pattern), draw_tokens(2, 6)
    other = tokens.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 7
    a, b = (model(t)[0] for t in (tokens, other))
    assert torch.equal(a[:, :4], b[:, :4]) and (a[:, 4:] != b[:, 4:]).any(-1).all()


def test_forward_starts_from_zero_fast_weights(build, draw_tokens):
    model, tokens = build("AG"), draw_tokens(2, 6)
    logits, S = model(tokens)
    again, S_again = model(tokens, model.init_fast_weights(2))
    assert torch.equal(logits, again) and torch.equal(S[0], S_again[0])
    assert not torch.equal(model(tokens, S)[0], logits)


def test_more_tokens_than_places_are_refused(build, draw_tokens):
    model = build("AG")
    wake = model.wake(draw_tokens(1, 4), model.init_fast_weights(1), model.init_cache())
    with pytest.raises(ValueError, match=r"^tokens must fit into the 2 free places of the window, got 3$"):
        model.wake(draw_tokens(1, 3), wake.S, wake.cache)


def test_a_pass_over_more_than_a_window_is_refused(build, draw_tokens):
    """Attention would see more than L tokens."""
    model, tokens = build("AG"), draw_tokens(2, 7)
    S = model.init_fast_weights(2)
    with pytest.raises(ValueError, match=r"^h must fit into the 6 free places of the window, got 7$"):
        model.blocks(model.embed(tokens), S)
    with pytest.raises(
        ValueError, match=r"^tokens must fit into a window of 6; read_windows and Session read more, got 7$"
    ):
        model(tokens)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[0, 1], [2, 7]]), r"tokens must lie in the vocabulary 0\.\.6, got 7 \(row 1, token 1\)"),
        (torch.tensor([[0, -1]]), r"tokens must lie in the vocabulary 0\.\.6, got -1 \(row 0, token 1\)"),
        (torch.tensor([[0.0, 1.0]]), r"tokens must be integers \(torch\.int64\), got torch\.float32"),
        (torch.tensor([0, 1]), r"tokens must be \(B, T\) with at least one row and one token, got \(2,\)"),
        ([[0, 1]], "tokens must be a tensor, got 'list'"),
    ],
)
def test_a_pass_over_what_are_no_tokens_of_the_model_is_refused(build, tokens, message):
    model = build("AG")
    with pytest.raises(ValueError, match=f"^{message}$"):
        model(tokens)
    if isinstance(tokens, torch.Tensor) and "vocabulary" in message:
        with pytest.raises(ValueError, match=f"^{message}$"):
            model.embed(tokens)


def test_tokens_are_read_where_torch_cannot_branch_on_them(build, draw_tokens):
    """In `vmap`, as for a gradient of each row, and in a graph of the compiler."""
    model, tokens = build("AG"), draw_tokens(2, 6)
    rows = torch.func.vmap(lambda row: model(row[None])[0][0])(tokens)
    torch.compiler.reset()
    whole = torch.compile(model, backend="eager", fullgraph=True)(tokens)[0]
    for logits in (rows, whole):
        torch.testing.assert_close(logits, model(tokens)[0])


def test_zero_init_starts_as_the_identity(build, draw_tokens):
    model = build("AGMJ", zero_init=True)
    h = model.embed(draw_tokens(2, 6))
    assert torch.equal(model.blocks(h, model.init_fast_weights(2))[0], h)


def test_tied_embeddings_are_one_parameter(build):
    model = build("AG", tie_embeddings=True)
    assert model.head.weight is model.embedding.weight
    assert model.config.num_params() == sum(p.numel() for p in model.parameters())


def test_norm_between_passes_closes_every_pass(build, draw_tokens):
    model = build("AG", norm_between_passes=True)
    torch.nn.init.uniform_(model.blocks.pass_norm.weight, 0.5, 2)
    h = model.embed(draw_tokens(2, 6))
    cache = model.init_cache()
    ctx = model.blocks.context(h, cache)
    raw, _, _ = model.blocks.run(0, 1, h, model.init_fast_weights(2), cache, ctx)
    raw, _, _ = model.blocks.layers[1](raw, model.init_fast_weights(2)[0], None, ctx)
    rms = raw.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    normed = model.blocks(h, model.init_fast_weights(2))[0]
    torch.testing.assert_close(normed, raw / rms * model.blocks.pass_norm.weight)
    torch.testing.assert_close(model.logits(normed), normed @ model.head.weight.T)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masked_tokens_give_no_nan_in_half_precision(build, draw_tokens, pattern, dtype):
    """Whatever they give is like what the unmasked tokens alone give, in values, states and gradients."""
    model, tokens = build(pattern, dtype), draw_tokens(2, 6)
    mask = torch.arange(6).expand(2, 6) >= 2
    h, S = model.blocks(model.embed(tokens), model.init_fast_weights(2), mask=mask)
    alone, T = model.blocks(model.embed(tokens[:, 2:]), model.init_fast_weights(2))
    torch.testing.assert_close(h[:, 2:], alone, rtol=0.1, atol=0.1)
    torch.testing.assert_close(S[-1], T[-1], rtol=0.1, atol=0.1)
    h.float().mean().backward()
    assert h.isfinite().all() and all(p.grad.isfinite().all() for p in model.blocks.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fast_weights_are_float32_or_wider(build, dtype):
    want = torch.float64 if dtype == torch.float64 else torch.float32
    model = build("AG", dtype)
    assert model.init_fast_weights(1)[0].dtype == want
    assert model(torch.zeros(1, 6, dtype=torch.long))[1][0].dtype == want


def test_a_convolution_of_width_one_needs_no_left_context(build, draw_tokens):
    model, tokens = build("AG", conv_size=1), draw_tokens(2, 6)
    whole = model.wake(tokens, model.init_fast_weights(2), model.init_cache())
    first = model.wake(tokens[:, :2], model.init_fast_weights(2), model.init_cache())
    second = model.wake(tokens[:, 2:], first.S, first.cache)
    torch.testing.assert_close(second.h, whole.h[:, 2:])


def test_state_dict_round_trip(build, draw_tokens):
    model, other = build("AGAG"), build("AGAG")
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    other.load_state_dict(model.state_dict())
    tokens = draw_tokens(2, 6)
    assert torch.equal(model(tokens)[0], other(tokens)[0])


def test_a_window_read_without_keeping_is_not_read_on(build, draw_tokens):
    model, tokens = build("AG"), draw_tokens(2, 4)
    first = model.wake(tokens[:, :2], model.init_fast_weights(2), model.init_cache(), use_cache=False)
    with pytest.raises(
        ValueError, match="cache must hold what the 2 tokens before left: they were read with use_cache=False"
    ):
        model.wake(tokens[:, 2:], first.S, first.cache)
