"""Algorithm 1 against passes written by hand."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lmsleep import AttentionCache, FastWeights, Session, read_windows
from lmsleep.ops import use_backend
from lmsleep.sleep import sleep
from lmsleep.windows import IGNORE

PATTERNS = ["AG", "GA", "AGAG", "AM", "AJ"]
L = 6


def windows(tokens):
    return tokens[:, :L], tokens[:, L : 2 * L], tokens[:, 2 * L :]


def by_hand(model, tokens, targets, n_passes):
    """Algorithm 1 with nothing but `embed`, `blocks` and `logits`."""
    S = model.init_fast_weights(len(tokens))
    *context, last = windows(tokens)
    for window in context:
        h = model.embed(window)
        for _ in range(n_passes):
            h, S = model.blocks(h, S)
    h, S = model.blocks(model.embed(last), S)
    logits = model.logits(h)
    return logits, F.cross_entropy(logits.flatten(0, 1), targets[:, 2 * L :].flatten()), S


@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_cross_windows_that_carry_loss(build, draw_tokens, pattern):
    """Where nothing sleeps between."""
    model, tokens, targets = build(pattern), draw_tokens(3, 3 * L), draw_tokens(3, 3 * L, seed=1)
    S, logits = model.init_fast_weights(3), []
    for window in windows(tokens):
        h, S = model.blocks(model.embed(window), S)
        logits.append(model.logits(h))
    loss = F.cross_entropy(torch.cat(logits, dim=1).flatten(0, 1), targets.flatten())
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    found = torch.autograd.grad(read_windows(model, tokens, targets).loss, list(model.parameters()))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("n_passes", [1, 3])
def test_equals_passes_written_by_hand_bit_for_bit(build, rows, pattern, n_passes):
    model = build(pattern)
    out = read_windows(model, *rows, n_passes=n_passes)
    logits, loss, S = by_hand(model, *rows, n_passes)
    assert torch.equal(out.scored_logits, logits)
    assert torch.equal(out.logits[:, 2 * L :], logits)
    assert torch.equal(out.loss, loss)
    assert all(map(torch.equal, out.fast_weights.states, S.states))
    got, want = (torch.autograd.grad(x, list(model.parameters())) for x in (out.loss, loss))
    for grad, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(grad, wanted)


def test_the_number_of_passes_matters(build, rows):
    losses = {n: read_windows(build(), *rows, n_passes=n).loss.item() for n in (1, 2, 3, 4)}
    assert len(set(losses.values())) == 4


def test_sleep_adds_passes_two_to_n():
    calls = []

    def blocks(h, S):
        calls.append((h, S))
        return h + 1, S + 10

    assert sleep(blocks, 0, 0, n_passes=1) == (0, 0) and not calls
    assert sleep(blocks, 0, 0, n_passes=4) == (3, 30)
    assert calls == [(0, 0), (1, 10), (2, 20)]


def test_the_gradient_is_that_of_the_loop_over_time_and_of_finite_differences(build, rows):
    """Through two windows with three passes each, for every parameter."""
    model = build()
    parameters = list(model.parameters())

    def loss():
        return read_windows(model, *rows, n_passes=3).loss

    grads = torch.autograd.grad(loss(), parameters)
    with use_backend(gated_delta="naive", short_conv="naive"):
        for got, want in zip(grads, torch.autograd.grad(loss(), parameters), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)
    generator, eps = torch.Generator().manual_seed(3), 1e-6
    for p, grad in zip(parameters, grads, strict=True):
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        with torch.no_grad():
            p += eps * direction
            above = loss()
            p -= 2 * eps * direction
            below = loss()
            p += eps * direction
        torch.testing.assert_close((above - below) / (2 * eps), (grad * direction).sum(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_sliding_eviction_with_one_pass_is_one_masked_pass_over_everything(build, draw_tokens, pattern):
    T = 3 * L + 2
    tokens = draw_tokens(2, T)
    out = read_windows(build(pattern), tokens, eviction="sliding")
    mask = torch.ones(T, T, dtype=torch.bool).tril().triu(-(L - 1))
    long = build(pattern, window_size=T)
    h, cache = long.embed(tokens), long.init_cache()
    span = replace(long.blocks.context(h, cache), visible=mask)
    h, S, _ = long.blocks.run(0, long.config.depth, h, long.init_fast_weights(2), cache, span)
    torch.testing.assert_close(out.logits, long.logits(h))
    for state, wanted in zip(out.fast_weights.states, S.states, strict=True):
        torch.testing.assert_close(state, wanted)


def test_a_sleep_with_sliding_eviction_sees_what_the_wake_pass_saw(build, draw_tokens):
    model, tokens = build(), draw_tokens(2, 2 * L)
    S, cache = model.init_fast_weights(2), AttentionCache(L)
    for window in tokens.split(L, dim=1):
        h = model.embed(window)
        span = model.blocks.context(h, cache)
        h, S, left = model.blocks.run(0, 4, h, S, cache, span)
        for _ in range(2):
            h, S, _ = model.blocks.run(0, 4, h, S, cache, span)
        cache = cache.extended(L, left, None).evict("sliding")
    got = read_windows(model, tokens, n_passes=3, eviction="sliding").fast_weights
    for state, wanted in zip(got.states, S.states, strict=True):
        torch.testing.assert_close(state, wanted)


@pytest.mark.parametrize(("pattern", "loop"), [("AGAGAG", (2, 4)), ("GAGA", (0, 2)), ("GAG", (1, 3)), ("GGG", (0, 1))])
@pytest.mark.parametrize("n_passes", [1, 3])
def test_partial_looping_repeats_the_middle_blocks(build, rows, pattern, loop, n_passes):
    """Prelude once, core N times, coda once on the refined h, block by block; the answer is one pass through all."""
    model, (tokens, targets) = build(pattern, loop=loop), rows
    blocks, (first, last) = model.blocks, loop
    S = dict.fromkeys(range(len(pattern)))
    S |= {b: model.init_fast_weights(5)[i] for b, i in blocks.state_index.items()}

    def run(some, h):
        span = blocks.context(h, model.init_cache())
        for b in some:
            h, S[b], _ = blocks.layers[b](h, S[b], None, span)
        return h

    for window in windows(tokens)[:2]:
        h = run(range(first), model.embed(window))
        for _ in range(n_passes):
            h = run(range(first, last), h)
        run(range(last, len(pattern)), h)
    logits = model.logits(run(range(len(pattern)), model.embed(windows(tokens)[2])))
    out = read_windows(model, tokens, targets, n_passes=n_passes)
    torch.testing.assert_close(out.scored_logits, logits)


LOOPED = {"sandwich_norm": True, "norm_between_passes": True}


@pytest.mark.parametrize("n_passes", [1, 3])
@pytest.mark.parametrize("wake_passes", [2, 4])
@pytest.mark.parametrize(("pattern", "options"), [("AGAG", LOOPED), ("AAjA", LOOPED), ("AGAG", {})])
def test_a_model_that_loops_awake_takes_its_logits_from_the_last_loop(
    build, rows, pattern, options, wake_passes, n_passes
):
    """Every window: all blocks, and the norm that closes a pass, over and over, each time from the S before the window;
    those without loss N - 1 times more, and then S goes on."""
    model, (tokens, targets) = build(pattern, **options), rows
    S = dict(enumerate([None] * len(pattern)))
    S |= {b: model.init_fast_weights(5)[i] for b, i in model.blocks.state_index.items()}
    for window, sleeps in zip(windows(tokens), (True, True, False), strict=True):
        h = model.embed(window)
        before = dict(S)
        for i in range(wake_passes + (n_passes - 1 if sleeps else 0)):
            S = dict(before) if i < wake_passes else S
            span = model.blocks.context(h, model.init_cache())
            for b, block in enumerate(model.blocks.layers):
                h, S[b], _ = block(h, S[b], None, span)
            h = model.blocks.pass_norm(h)
            logits = model.logits(h)
    out = read_windows(model, tokens, targets, n_passes, wake_passes=wake_passes)
    torch.testing.assert_close(out.scored_logits, logits)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows(targets)[2].flatten(), ignore_index=IGNORE)
    got, want = (torch.autograd.grad(x, list(model.parameters())) for x in (out.loss, loss))
    for grad, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize(("pattern", "loop"), [("AGAGAG", (2, 4)), ("GAGA", (0, 2))])
def test_blocks_behind_the_loop_read_once_what_it_leaves_awake(build, rows, pattern, loop):
    model, (tokens, targets) = build(pattern, loop=loop), rows
    blocks, (first, last) = model.blocks, loop
    S = dict.fromkeys(range(len(pattern)))
    S |= {b: model.init_fast_weights(5)[i] for b, i in blocks.state_index.items()}
    for window in windows(tokens):
        h, order = model.embed(window), [*range(first), *2 * [*range(first, last)], *range(last, len(pattern))]
        before, span = dict(S), blocks.context(h, model.init_cache())
        for b in order:
            h, S[b], _ = blocks.layers[b](h, before[b], None, span)
    out = read_windows(model, tokens, targets, wake_passes=2)
    torch.testing.assert_close(out.scored_logits, model.logits(h))


@pytest.mark.parametrize("wake_passes", [1, 3])
@pytest.mark.parametrize("n_passes", [1, 2])
@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize(("pattern", "loop"), [("AGAG", None), ("WGJM", None), ("AGAGAG", (2, 4))])
def test_no_prediction_knows_what_comes_later(build, rows, pattern, loop, eviction, n_passes, wake_passes):
    """Neither attention nor fast weights carry anything back, however often a window is read awake or asleep."""
    model = build(pattern, loop=loop, **({"sliding_window": 5} if "W" in pattern else {}))
    tokens = rows[0][:1].repeat(5, 1)  # a row, and it again with other tokens from a place on
    places = (1, model.window_size // 2, model.window_size, tokens.shape[1] - 1)
    for other, changed in zip(tokens[1:], places, strict=True):
        other[changed:] = (other[changed:] + 1) % model.config.vocab_size
    says = {"n_passes": n_passes, "wake_passes": wake_passes, "eviction": eviction, "after_loss": True}
    with torch.no_grad():
        said, *others = read_windows(model, tokens, tokens.clone(), **says).logits
    for after, changed in zip(others, places, strict=True):
        torch.testing.assert_close(after[:changed], said[:changed], rtol=0, atol=1e-12)
        assert (after[changed] - said[changed]).abs().max() > 1e-9


def test_a_number_of_wake_passes_is_checked(build, rows):
    with pytest.raises(ValueError, match=r"^wake_passes must be 1 or more .*, got 0$"):
        read_windows(build(), *rows, wake_passes=0)


def test_what_a_sleeper_without_passes_answers_stays_also_behind_the_loop(build, draw_tokens):
    """The blocks behind the loop read again because passes were made, not because another h came back."""
    model = build("AGAG", loop=(0, 2))

    def cut(blocks, h, S):
        return h.clone(), FastWeights(tuple(map(torch.zeros_like, S.states)))

    S = read_windows(model, draw_tokens(2, L), on_overflow=cut).fast_weights
    assert len(S) == 2 and not any(state.any() for state in S.states)


@pytest.mark.parametrize("options", [{}, {"loop": (1, 3)}, {"sandwich_norm": True, "norm_between_passes": True}])
def test_activation_checkpointing_gives_the_same_gradients(build, rows, options):
    model = build(**options)
    results = []
    for checkpointing in (False, True):
        model.blocks.checkpointing = checkpointing
        out = read_windows(model, *rows, n_passes=3)
        results.append([out.loss, *torch.autograd.grad(out.loss, list(model.parameters()))])
    assert all(map(torch.equal, *results))


def test_checkpointing_recomputes_the_passes(build, rows, monkeypatch):
    model = build()
    calls = []
    whole = model.blocks._run
    monkeypatch.setattr(model.blocks, "_run", lambda *args: calls.append(1) or whole(*args))
    model.blocks.checkpointing = True
    read_windows(model, *rows, n_passes=3).loss.backward()
    assert len(calls) == 2 * (2 * 3 + 1)


def count_sleeps(model, tokens, targets=None, **kwargs):
    shapes = []
    read_windows(model, tokens, targets, on_overflow=lambda _, h, S: shapes.append(h.shape[1]) or (h, S), **kwargs)
    return shapes


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
def test_every_full_window_without_loss_sleeps_once(build, draw_tokens, eviction):
    model, tokens = build("AG"), draw_tokens(3, 3 * L + 2)
    sleeps = partial(count_sleeps, model, tokens, eviction=eviction)
    assert sleeps() == [L, L, L]
    targets = torch.full_like(tokens, IGNORE)
    assert sleeps(targets) == [L, L, L]
    targets[1, 3 * L] = 0
    assert sleeps(targets) == [L, L, L]
    targets[2, L] = 0  # one row's target keeps the whole window awake
    assert sleeps(targets) == [L, L]
    assert count_sleeps(model, tokens[:, : L - 1], eviction=eviction) == []


def asleep_after_loss(model, tokens, targets, n_passes):
    """Window by window: wake pass, the loss of every target by itself, passes 2..N. Mean loss and S at the end."""
    S, terms = model.init_fast_weights(len(tokens)), []
    for start in range(0, tokens.shape[1], L):
        h, S = model.blocks(model.embed(tokens[:, start : start + L]), S)
        nll = -model.logits(h).log_softmax(-1)
        said = targets[:, start : start + L].tolist()
        terms += [nll[b, t, y] for b, row in enumerate(said) for t, y in enumerate(row) if y != IGNORE]
        for _ in range(n_passes - 1 if h.shape[1] == L else 0):
            h, S = model.blocks(h, S)
    return torch.stack(terms).mean(), S


@pytest.mark.parametrize("pattern", ["AGAG", "AM"])
@pytest.mark.parametrize("n_passes", [1, 3])
@pytest.mark.parametrize("T", [3 * L, 3 * L + 2])
def test_windows_with_loss_can_sleep_after_it(build, draw_tokens, pattern, n_passes, T):
    """Loss and all gradients, with loss in every window or in some."""
    model, tokens, targets = build(pattern), draw_tokens(3, T), draw_tokens(3, T, seed=1)
    for free in (slice(0), slice(2), slice(L, 2 * L)):
        targets[:, free] = IGNORE
        out = read_windows(model, tokens, targets, n_passes, after_loss=True)
        loss, S = asleep_after_loss(model, tokens, targets, n_passes)
        torch.testing.assert_close(out.loss, loss)
        got, want = (torch.autograd.grad(x, list(model.parameters())) for x in (out.loss, loss))
        for grad, wanted in zip(got, want, strict=True):
            torch.testing.assert_close(grad, wanted)
    if T % L:
        for state, wanted in zip(out.fast_weights.states, S.states, strict=True):
            torch.testing.assert_close(state, wanted)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
def test_after_loss_targets_no_longer_decide_who_sleeps(build, draw_tokens, eviction):
    model, tokens, targets = build(), draw_tokens(3, 3 * L + 2), draw_tokens(3, 3 * L + 2, seed=1)
    want = read_windows(model, tokens, n_passes=3, eviction=eviction)
    got = read_windows(model, tokens, targets, n_passes=3, eviction=eviction, after_loss=True)
    assert torch.equal(got.hidden, want.hidden)


def test_a_language_model_sleeps_only_after_loss(build, draw_tokens):
    model, tokens, targets = build(), draw_tokens(3, 2 * L), draw_tokens(3, 2 * L, seed=1)
    awake, asleep = (
        {read_windows(model, tokens, targets, n, after_loss=after_loss).loss.item() for n in (1, 2, 4)}
        for after_loss in (False, True)
    )
    assert len(awake) == 1 and len(asleep) == 3 and awake < asleep


def test_loss_windows_take_the_place_of_looking_at_the_targets(build, rows):
    tokens, targets = rows
    want = read_windows(build(), tokens, targets, n_passes=2)
    got = read_windows(build(), tokens, targets, n_passes=2, loss_windows=[False, False, True])
    assert torch.equal(got.loss, want.loss)
    awake = read_windows(build(), tokens, targets, n_passes=2, loss_windows=[False, True, True])
    assert not torch.equal(awake.loss, want.loss)


@pytest.mark.parametrize("pattern", ["AGAG", "GA", "AGA", "A", "AgAJ"])
@pytest.mark.parametrize("options", [{}, {"n_passes": 3}, {"wake_passes": 2}, {"eviction": "sliding"}])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_scored_only_changes_neither_loss_nor_state_nor_gradients(build, rows, pattern, options, checkpointing):
    results = []
    for scored_only in (False, True):
        model = build(pattern)
        model.blocks.checkpointing = checkpointing
        out = read_windows(model, *rows, scored_only=scored_only, **options)
        grads = torch.autograd.grad(out.loss, list(model.parameters()), allow_unused=True)
        results.append((out.loss, out.scored_logits, *out.fast_weights.states, *(g for g in grads if g is not None)))
    assert len(results[0]) == len(results[1])
    assert all(map(torch.equal, *results))


def test_scored_only_leaves_out_the_last_mlp_of_windows_without_loss_where_nothing_sleeps(build, rows):
    """Three products of an MLP for each token, in the first two of three windows."""

    def count(scored_only, n_passes=1):
        with FlopCounterMode(display=False) as counter:
            out = read_windows(build("AG"), *rows, n_passes, scored_only=scored_only)
        return counter.get_total_flops(), out.hidden.shape[1]

    (whole, tokens), (less, scored) = count(False), count(True)
    assert whole - less == 2 * 3 * 16 * 24 * len(rows[0]) * 2 * L
    assert (tokens, scored) == (rows[0].shape[1], rows[0].shape[1] - 2 * L)
    assert count(True, 2) == count(False, 2)


def test_the_loss_is_the_mean_over_all_targets_of_all_windows(build, draw_tokens):
    model, tokens, targets = build("AG"), draw_tokens(3, 2 * L + 3), draw_tokens(3, 2 * L + 3, seed=1)
    targets[:, L - 2 : 2 * L + 1] = IGNORE
    targets[1, 0] = IGNORE
    out = read_windows(model, tokens, targets, n_passes=2)
    nll = -out.logits.log_softmax(-1)
    terms = [nll[b, t, targets[b, t]] for b in range(3) for t in range(2 * L + 3) if targets[b, t] != IGNORE]
    torch.testing.assert_close(out.loss, torch.stack(terms).mean())
    assert out.scored_targets.shape == (3, L + 3) and out.scored_logits.shape == (3, L + 3, 7)


def test_a_reading_is_shown_in_a_line_or_two(build, rows):
    shown = repr(read_windows(build("AG"), *rows, n_passes=2))
    assert shown.startswith("Reading(windows=Windows(") and "loss=tensor(" in shown and len(shown) < 200


def test_without_targets_there_is_no_loss(build, draw_tokens):
    out = read_windows(build("AG"), draw_tokens(2, L + 1))
    assert out.loss is None and out.scored_logits is None
    assert out.logits.shape == (2, L + 1, 7)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_reading_goes_on_from_the_fast_weights_of_another(build, draw_tokens, pattern):
    """Two readings are the one of all windows, and gradients go from the second to the first."""
    model, tokens, targets = build(pattern), draw_tokens(3, 3 * L), draw_tokens(3, 3 * L, seed=1)
    targets[:, L : 2 * L] = IGNORE
    want = read_windows(model, tokens, targets, n_passes=3)
    first = read_windows(model, tokens[:, : 2 * L], targets[:, : 2 * L], n_passes=3)
    second = read_windows(model, tokens[:, 2 * L :], targets[:, 2 * L :], 3, fast_weights=first.fast_weights)
    assert all(map(torch.equal, second.fast_weights.states, want.fast_weights.states))
    assert torch.equal(second.hidden, want.hidden[:, 2 * L :])
    loss = (first.loss + second.loss) / 2
    torch.testing.assert_close(loss, want.loss)
    got, wanted = (torch.autograd.grad(x, list(model.parameters())) for x in (loss, want.loss))
    for grad, like in zip(got, wanted, strict=True):
        torch.testing.assert_close(grad, like)


def test_gradients_reach_the_fast_weights_that_a_reading_begins_from(build, rows):
    """By finite differences."""
    model, generator = build("AG"), torch.Generator().manual_seed(2)
    start = torch.randn(model.init_fast_weights(5)[0].shape, generator=generator, dtype=torch.float64).requires_grad_()
    direction = torch.randn(start.shape, generator=generator, dtype=torch.float64)

    def loss(S):
        return read_windows(model, *rows, n_passes=2, fast_weights=FastWeights((S,))).loss

    (grad,) = torch.autograd.grad(loss(start), start)
    with torch.no_grad():
        slope = (loss(start + 1e-6 * direction) - loss(start - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((grad * direction).sum(), slope, rtol=1e-5, atol=1e-8)


STATE = torch.zeros(2, 2, 8, 8, dtype=torch.float64)  # of build("AG") and two rows


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((STATE,), "fast_weights must be FastWeights, got 'tuple'"),
        (FastWeights(()), "fast_weights must have 1 layers, got 0"),
        (FastWeights((STATE, STATE)), "fast_weights must have 1 layers, got 2"),
        (
            FastWeights((STATE[:1],)),
            r"layer 0 of fast_weights must be torch.float64 of shape \(2, 2, 8, 8\), got \(\(1, 2, 8, 8\), .*float64\)",
        ),
        (FastWeights((STATE[..., :4],)), r"layer 0 of fast_weights must be .*, got \(\(2, 2, 8, 4\), torch.float64\)"),
        (FastWeights((STATE.float(),)), r"layer 0 of fast_weights must be .*, got \(\(2, 2, 8, 8\), torch.float32\)"),
    ],
)
def test_fast_weights_that_do_not_fit_are_one_sentence(build, given, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        read_windows(build("AG"), torch.zeros(2, 4, dtype=torch.long), fast_weights=given)


def test_what_answers_an_overflow_knows_which_window_it_is(build, draw_tokens):
    """Here with N by window: 3 for the first, 2 for the second, 1 after them."""
    model, tokens, made = build(), draw_tokens(3, 3 * L + 2), []

    def by_window(blocks, h, S):
        h, S = sleep(blocks, h, S, 3 - blocks.number)
        made.append(blocks.count)
        return h, S

    out, S = read_windows(model, tokens, on_overflow=by_window), model.init_fast_weights(3)
    for n_passes, window in zip((3, 2, 1), windows(tokens[:, : 3 * L]), strict=True):
        h = model.embed(window)
        for _ in range(n_passes):
            h, S = model.blocks(h, S)
    _, S = model.blocks(model.embed(tokens[:, 3 * L :]), S)
    assert all(map(torch.equal, out.fast_weights.states, S.states)) and made == [2, 1, 0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_passes": 0}, r"n_passes must be 1 or more \(the wake pass counts\), got 0"),
        ({"n_passes": 10**18}, "n_passes must be at most 10000, got 1000000000000000000"),
        ({"n_passes": 2.5}, "n_passes must be an integer, got 2.5"),
        ({"mask": torch.ones(2, 4, dtype=torch.long)}, "mask must be bool, got torch.int64"),
        ({"eviction": "soft"}, "eviction must be one of hard, sliding, got 'soft'"),
        ({"tokens": [[1, 2]]}, "tokens must be a tensor, got 'list'"),
        ({"tokens": torch.ones(2, 4)}, r"tokens must be integers \(torch.int64\), got torch.float32"),
        ({"targets": torch.zeros(2, 4)}, r"targets must be integers \(torch.int64\), got torch.float32"),
        ({"tokens": torch.full((2, 4), 7)}, r"tokens must lie in the vocabulary 0..6, got 7 \(row 0, token 0\)"),
        (
            {"targets": torch.tensor(2 * [[1, -100, 6, -900]])},
            r"targets must lie in .* 0..6, got -900 \(row 0, token 3\)",
        ),
        ({"targets": torch.zeros(2, 3)}, r"targets must have the shape of tokens \(2, 4\), got \(2, 3\)"),
        ({"mask": torch.zeros(1, 4)}, r"mask must have the shape of tokens \(2, 4\), got \(1, 4\)"),
        ({"loss_windows": [True] * 2}, "loss_windows must say of 1 windows if they carry loss, got 2"),
        ({"loss_windows": []}, "loss_windows must say of 1 windows if they carry loss, got 0"),
        (
            {"n_passes": 3, "on_overflow": lambda blocks, h, S: (h, S)},
            "n_passes must be left out beside on_overflow, got 3",
        ),
        (
            {"model": torch.nn.Linear(2, 2)},
            "model must be a HybridLM; another module sleeps by lmsleep.sleep.sleep, got 'Linear'",
        ),
        ({"model": "tuned"}, "model must be a HybridLM; from_pretrained reads a folder, got 'tuned'"),
        ({"tokens": torch.zeros(2, 0)}, r"tokens must be \(B, T\) with at least one row and one token, got \(2, 0\)"),
    ],
)
def test_bad_input_is_one_sentence(build, change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        read_windows(**({"model": build("AG"), "tokens": torch.zeros(2, 4, dtype=torch.long)} | change))


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda blocks, h, S: S, "FastWeights"),
        (lambda blocks, h, S: None, "NoneType"),
        (lambda blocks, h, S: (h, S[0]), "tuple"),
        (lambda blocks, h, S: (h, S, blocks), "tuple"),
    ],
)
def test_what_a_sleep_of_ones_own_must_return_is_one_sentence(build, draw_tokens, answer, got):
    with pytest.raises(ValueError, match=rf"^on_overflow must return h and S \(FastWeights\), got '{got}'$"):
        read_windows(build("AG"), draw_tokens(2, L), on_overflow=answer)


def test_fast_weights_of_a_sleep_of_ones_own_that_do_not_fit_are_named_at_that_sleep(build, draw_tokens):
    def half(blocks, h, S):
        return h, S.to(dtype=torch.float16)

    sentence = r"^layer 0 of fast_weights that a sleep leaves must be torch\.float64 of shape \(2, .*torch\.float16\)$"
    for read in (partial(read_windows, on_overflow=half), lambda m, tokens: Session(m, on_overflow=half).feed(tokens)):
        with pytest.raises(ValueError, match=sentence):
            read(build("AG"), draw_tokens(2, 2 * L))
