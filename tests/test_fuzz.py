"""Configurations, masks, losses and splits drawn by chance: each property holds for all of them.

`make test` tries the same few each time; `pytest -m slow tests/test_fuzz.py` others, and more, and says the smallest
that fails.
"""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lmsleep import HybridConfig, Session, read_windows
from lmsleep.checks import typed
from lmsleep.windows import IGNORE

PATTERNS = st.text("AGMJWagmj", min_size=1, max_size=3)
OPTIONS = st.fixed_dictionaries(
    {"sliding_window": st.integers(1, 6)},
    optional={
        "conv_size": st.integers(1, 4),
        "n_kv_heads": st.just(1),
        "fast_value_dim": st.integers(1, 9),
        "delta": st.booleans(),
        "allow_neg_eigval": st.booleans(),
        "qk_norm": st.booleans(),
        "attention_gate": st.booleans(),
        "sandwich_norm": st.booleans(),
        "tie_embeddings": st.booleans(),
        "norm_between_passes": st.booleans(),
    },
)


def draw_bools(data, *shape):
    flat = data.draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return torch.tensor(flat).view(shape)


def draw_rows(data, size):
    """Tokens, targets with loss in some windows, and a mask or None, (B, T)."""
    B, T = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3 * size + 2))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    tokens, targets = (torch.randint(7, (B, T), generator=generator) for _ in range(2))
    windows = data.draw(st.lists(st.booleans(), min_size=-(-T // size), max_size=-(-T // size)))
    carries = torch.tensor(windows).repeat_interleave(size)[:T]
    targets[~(carries & draw_bools(data, B, T))] = IGNORE
    return tokens, targets, draw_bools(data, B, T) if data.draw(st.booleans()) else None


def algorithm(model, tokens, targets, mask, n_passes, after_loss, wake_passes):
    """Algorithm 1 with nothing but `embed`, `blocks` and `logits`: the loss, if any, and S."""
    L, T = model.window_size, tokens.shape[1]
    S, logits, wanted = model.init_fast_weights(len(tokens)), [], []
    for start in range(0, T, L):
        window, seen = slice(start, start + L), None if mask is None else mask[:, start : start + L]
        h, before = model.embed(tokens[:, window]), S
        for _ in range(wake_passes):
            h, S = model.blocks(h, before, mask=seen)
        with_loss = bool((targets[:, window] != IGNORE).any())
        if with_loss:
            logits.append(model.logits(h))
            wanted.append(targets[:, window])
        if (start + L < T and after_loss) if with_loss else start + L <= T:
            for _ in range(n_passes - 1):
                h, S = model.blocks(h, S, mask=seen)
    loss = F.cross_entropy(torch.cat(logits, 1).flatten(0, 1), torch.cat(wanted, 1).flatten()) if logits else None
    return loss, S


def close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)


def reading_is_algorithm_1_in_values_and_gradients(build, data):
    size = data.draw(st.integers(1, 5))
    model = build(data.draw(PATTERNS), window_size=size, **data.draw(OPTIONS))
    tokens, targets, mask = draw_rows(data, size)
    n_passes, awake, after_loss = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)), data.draw(st.booleans())
    out = read_windows(model, tokens, targets, n_passes, mask=mask, after_loss=after_loss, wake_passes=awake)
    loss, S = algorithm(model, tokens, targets, mask, n_passes, after_loss, awake)
    assert (out.loss is None) == (loss is None)
    values = []
    for one, states in ((out.loss, out.fast_weights.states), (loss, S.states)):
        total = sum((state.square().sum() for state in states), torch.zeros(()) if one is None else one)
        assume(total.requires_grad)
        values.append((total, *torch.autograd.grad(total, list(model.parameters()), allow_unused=True)))
    for got, wanted in zip(*values, strict=True):
        assert (got is None) == (wanted is None)
        if got is not None:
            close(got, wanted)


def masked_tokens_leave_no_trace(build, data):
    """Other tokens in their place change nothing; nor does a whole window of them, wherever it is put in."""
    size, n_passes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    model = build(data.draw(PATTERNS), window_size=size, **data.draw(OPTIONS))
    tokens, targets, mask = draw_rows(data, size)
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    eviction = data.draw(st.sampled_from(["hard", "sliding"]))
    with torch.no_grad():
        want = read_windows(model, tokens, targets, n_passes, mask=mask, eviction=eviction)
        other = torch.where(mask, tokens, 6 - tokens)
        got = read_windows(model, other, targets, n_passes, mask=mask, eviction=eviction)
        assert torch.equal(got.logits[mask], want.logits[mask])
        assert all(map(torch.equal, got.fast_weights.states, want.fast_weights.states))
        at = size * data.draw(st.integers(0, tokens.shape[1] // size))
        put_in = ((tokens, 3), (targets, IGNORE), (mask, False))
        longer = [
            torch.cat([x[:, :at], torch.full_like(x[:, :1], y).expand(-1, size), x[:, at:]], 1) for x, y in put_in
        ]
        want = read_windows(model, tokens, targets, n_passes, mask=mask)
        got = read_windows(model, *longer[:2], n_passes, mask=longer[2])
    for a, b in zip(got.fast_weights.states, want.fast_weights.states, strict=True):
        close(a, b)
    if want.loss is not None and not want.loss.isnan():
        close(got.loss, want.loss)


def a_session_gives_the_same_in_whatever_parts_it_reads(build, data):
    size, n_passes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    pattern, options = data.draw(PATTERNS), data.draw(OPTIONS)
    if not options.get("norm_between_passes"):
        options["loop"] = data.draw(st.sampled_from([None, (0, 1), (len(pattern) - 1, len(pattern))]))
    model = build(pattern, window_size=size, **options)
    tokens, _, mask = draw_rows(data, size)
    eviction, T = data.draw(st.sampled_from(["hard", "sliding"])), tokens.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, T - 1)), max_size=T)) - {T})
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, T], strict=True)]
    session = Session(model, n_passes=n_passes, eviction=eviction, static=data.draw(st.booleans()))
    masks = [None] * len(sizes) if mask is None else mask.split(sizes, dim=1)
    logits = torch.cat([session.feed(x, mask=m) for x, m in zip(tokens.split(sizes, 1), masks, strict=True)], dim=1)
    with torch.no_grad():
        whole = read_windows(model, tokens, None, n_passes, eviction=eviction, mask=mask)
    seen = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    close(logits[seen], whole.logits[seen])
    if T % size:  # at the end of a full window the session has not slept yet: no token has come that does not fit
        for got, wanted in zip(session.fast_weights.states, whole.fast_weights.states, strict=True):
            close(got, wanted)


NUMBERS = st.sampled_from([None, -1, 0, 1, 2, 3, 4, 6, 8, 16, 2.0, "4", True, 2**31])
REALS = st.sampled_from([None, -1.0, 0.0, 1e-300, 1e-6, 1.0, 1e4, 1e300, float("inf"), float("nan")])
FIELDS = st.fixed_dictionaries(
    {"vocab_size": st.just(5), "window_size": st.just(4), "pattern": st.text("AGMJWagmjX", max_size=4)},
    optional={
        **dict.fromkeys(("d_model", "n_heads", "n_kv_heads", "head_dim", "fast_heads", "fast_key_dim"), NUMBERS),
        **dict.fromkeys(("fast_value_dim", "fast_key_heads", "conv_size", "mlp_dim", "sliding_window"), NUMBERS),
        **dict.fromkeys(("norm_eps", "fast_norm_eps", "rope_theta", "embedding_std"), REALS),
        "decay_rates": st.none() | st.tuples(REALS, REALS),
        "loop": st.none() | st.tuples(st.integers(-1, 5), st.integers(-1, 5)),
        "norm_between_passes": st.booleans(),
    },
)

NAMES = [field.name for field in dataclasses.fields(HybridConfig)]


def a_configuration_is_refused_in_a_sentence_or_works(build, data):
    """It is read as JSON holds it. What works has as many parameters as it says, and is the same once written."""
    fields = data.draw(FIELDS)
    try:
        config = typed(HybridConfig, fields, "config")
    except ValueError as error:
        assert any(name in str(error) for name in NAMES) and ", got " in str(error), error
        return
    assert typed(HybridConfig, json.loads(json.dumps(config.to_dict())), "config") == config
    size = config.num_params()
    assume(size < 10**6)
    model = config.build()
    assert sum(p.numel() for p in model.parameters()) == size
    logits, S = model(torch.tensor([[0, 1, 2, 3]]))
    assert logits.shape == (1, 4, 5) and len(S) == sum(letter in "GMJ" for letter in config.pattern.upper())


PROPERTIES = (
    reading_is_algorithm_1_in_values_and_gradients,
    masked_tokens_leave_no_trace,
    a_session_gives_the_same_in_whatever_parts_it_reads,
    a_configuration_is_refused_in_a_sentence_or_works,
)
FEW = settings(max_examples=25, derandomize=True, deadline=None, database=None)
MANY = settings(max_examples=2000, deadline=None, database=None)


def hold(one, build, how):
    @how
    @given(st.data())
    def tried(data):
        one(build, data)

    tried()


@pytest.mark.parametrize("one", PROPERTIES, ids=lambda one: one.__name__)
def test_it_holds_for_what_chance_draws(build, one):
    hold(one, build, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("one", PROPERTIES, ids=lambda one: one.__name__)
def test_it_holds_for_much_more(build, one):
    hold(one, build, MANY)
