"""Sessions against `read_windows` over the whole sequence: however the tokens come, the same logits and the same S."""

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from feeding import L, close, feed_in

from lmsleep import HybridLM, Session, read_windows
from lmsleep.runtime.graphs import GraphedBlocks
from lmsleep.settle import Settle, forget
from lmsleep.sleep import sleep
from lmsleep.windows import policy_name

SHAPES = {
    "AG": {},
    "AGAG": {},
    "AM": {},
    "AMd": {"pattern": "AM", "delta": True},
    "AJ": {},
    "prelude and coda": {"pattern": "AGGAG", "loop": (1, 3)},
    "norm between passes": {"pattern": "AGAg", "norm_between_passes": True, "sandwich_norm": True},
    "as Qwen3-Next": {"pattern": "GA", "qk_norm": True, "attention_gate": True, "rotary_dim": 4, "fast_key_heads": 1},
    "sliding attention": {"pattern": "WGAG", "sliding_window": 3, "n_kv_heads": 1},
}
SPLITS = {"one by one": [1] * 20, "mixed": [4, 1, 1, 9, 0, 2, 3], "at once": [20]}


def shaped(build, shape):
    return build(**({"pattern": shape} | SHAPES[shape]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("static", [False, True], ids=["growing", "static"])
def test_one_token_at_a_time_equals_reading_by_windows(build, draw_tokens, shape, eviction, static):
    model, tokens = shaped(build, shape), draw_tokens(3, 3 * L)
    session = Session(model, n_passes=3, eviction=eviction, static=static)
    logits = feed_in(session, tokens, [1] * (3 * L))
    with torch.no_grad():
        whole = read_windows(model, tokens, n_passes=3, eviction=eviction)
    close(logits, whole.logits)
    session.sleep()  # as `read_windows` does with the last window, which is full
    for got, wanted in zip(session.fast_weights.states, whole.fast_weights.states, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("static", [False, True], ids=["growing", "static"])
@pytest.mark.parametrize("split", SPLITS)
def test_any_split_gives_the_same_result(build, draw_tokens, split, eviction, static):
    model, tokens = build("AGAG"), draw_tokens(2, 20)
    session = Session(model, n_passes=2, eviction=eviction, static=static)
    with torch.no_grad():
        whole = read_windows(model, tokens, n_passes=2, eviction=eviction)
    close(feed_in(session, tokens, SPLITS[split]), whole.logits)
    for got, wanted in zip(session.fast_weights.states, whole.fast_weights.states, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("sizes", [[17], [1] * 17, [4, 5, 8]])
def test_masked_tokens_leave_no_trace(build, draw_tokens, eviction, sizes):
    model, tokens = build("AGAG"), draw_tokens(3, 17)
    mask = torch.rand(3, 17, generator=torch.Generator().manual_seed(0)) < 0.6
    session = Session(model, n_passes=2, eviction=eviction, static=True)
    pieces = zip(tokens.split(sizes, dim=1), mask.split(sizes, dim=1), strict=True)
    logits = torch.cat([session.feed(part, mask=seen) for part, seen in pieces], dim=1)
    with torch.no_grad():
        whole = read_windows(model, tokens, n_passes=2, eviction=eviction, mask=mask)
    close(logits[mask], whole.logits[mask])
    close(session.fast_weights[0], whole.fast_weights[0])


def test_unmasked_tokens_after_masked_ones_are_decoded_in_place(build, draw_tokens):
    model, tokens = build("AGAG"), draw_tokens(2, 16)
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[:, :3] = torch.tensor([[False, True, False], [True, True, False]])
    session = Session(model, n_passes=2, eviction="sliding", static=True)
    first = session.feed(tokens[:, :3], mask=mask[:, :3])
    logits = torch.cat([first, feed_in(session, tokens[:, 3:], [1] * 13)], dim=1)
    with torch.no_grad():
        whole = read_windows(model, tokens, n_passes=2, eviction="sliding", mask=mask)
    close(logits[mask], whole.logits[mask])
    close(session.fast_weights[0], whole.fast_weights[0])


@pytest.mark.parametrize("n", [1, 4, 13])
def test_the_last_logits_are_those_of_the_last_token_that_is_not_padding(build, draw_tokens, n):
    """Each row against itself alone: padding behind it, before it, none, nothing but padding, and a shorter row."""
    model, tokens = build("AGAG"), draw_tokens(5, n)
    mask = torch.ones(5, n, dtype=torch.bool)
    mask[0, (n + 1) // 2 :], mask[1, : n // 2], mask[3] = False, False, False
    lists = [row.tolist() for row in tokens]
    lists[4] = lists[4][: max(n - 5, 1)]
    session, alone = Session(model, 2), [Session(model, 2) for _ in lists]
    for before in (None, draw_tokens(5, 3)):
        if before is not None:
            session.feed(before)
        got = session.feed(lists, mask=mask, last_only=True)
        for row, one in enumerate(alone):
            if before is not None:
                one.feed(before[row])
            every = one.feed(lists[row], mask=mask[row, : len(lists[row])])[0]
            seen = mask[row, : len(lists[row])].nonzero()[:, 0].tolist()
            close(got[row], every[seen[-1]]) if seen else None
            assert got[row].isnan().all() == (not seen)
    close(session.fast_weights[0], torch.cat([one.fast_weights[0] for one in alone]))
    assert session.feed([[]] * 5, mask=torch.ones(5, 0), last_only=True).isnan().all()


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("last_only", [False, True])
def test_rows_of_different_length_read_as_if_alone(build, draw_tokens, eviction, last_only):
    model, tokens = build("AG"), draw_tokens(4, 40).tolist()
    calls = [[2, 7, 0, 13], [5, 0, 7, 1], [6, 6, 6, 6], [9, 1, 3, 2]]
    session = Session(model, n_passes=2, eviction=eviction)
    alone = [Session(model, n_passes=2, eviction=eviction) for _ in range(4)]
    at = [0] * 4
    for lengths in calls:
        parts = [row[start : start + n] for row, start, n in zip(tokens, at, lengths, strict=True)]
        at = [start + n for start, n in zip(at, lengths, strict=True)]
        together = session.feed(parts, last_only=last_only)
        for row, (one, part) in enumerate(zip(alone, parts, strict=True)):
            if last_only:
                close(together[row], one.feed(part, last_only=True)[0]) if part else None
                assert part or together[row].isnan().all()
            else:
                close(together[row, : len(part)], one.feed(part)[0]) if part else None
                assert together[row, len(part) :].isnan().all()
    for layer, state in enumerate(session.fast_weights.states):
        close(state, torch.cat([one.fast_weights[layer] for one in alone]))


def test_rows_that_come_into_phase_are_read_together_again(build):
    session = Session(build(), n_passes=2)
    session.feed([[1, 2], [3, 4, 5, 6, 0], [1, 1]])
    assert sorted(group.rows for group in session.groups) == [(0, 2), (1,)]
    session.feed([[1, 2, 3], [], [1, 1, 1]])
    assert [group.rows for group in session.groups] == [(0, 1, 2)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pattern", ["AGAG", "AM", "AJ"])
@pytest.mark.parametrize("eviction", ["hard", "sliding"])
def test_the_decode_step_as_a_cuda_graph(build, draw_tokens, pattern, eviction):
    model, tokens = build(pattern, dtype=torch.float32).cuda(), draw_tokens(2, 3 * L + 2)
    graphed, growing = (Session(model, n_passes=2, eviction=eviction, static=static) for static in (True, False))
    for token in tokens.split(1, dim=1):
        torch.testing.assert_close(graphed.feed(token), growing.feed(token), rtol=1e-3, atol=1e-4)
    for got, wanted in zip(graphed.fast_weights.states, growing.fast_weights.states, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eviction", ["hard", "sliding"])
def test_the_passes_of_a_sleep_as_cuda_graphs(build, draw_tokens, shape, eviction):
    model, tokens = shaped(partial(build, dtype=torch.float32), shape).cuda(), draw_tokens(2, 4 * L + 1)
    graphed, eager = (Session(model, n_passes=4, eviction=eviction, static=static) for static in (True, False))
    for part in tokens.split([L, L + 2, 2 * L - 1], dim=1):
        torch.testing.assert_close(graphed.feed(part), eager.feed(part), rtol=1e-4, atol=1e-5)
        for got, wanted in zip(graphed.fast_weights.states, eager.fast_weights.states, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_passes_of_a_sleep_are_made_in_buffers_for_full_windows_alone(build, draw_tokens, monkeypatch):
    lengths, run = [], GraphedBlocks.__call__
    monkeypatch.setattr(GraphedBlocks, "__call__", lambda *args: (lengths.append(args[3].shape[1]), run(*args))[1])
    session = Session(build(), n_passes=3, static=True)
    session.feed(draw_tokens(2, L + 3))
    session.sleep()
    assert lengths == [L, L]  # passes 2 and 3 over the window that overflowed, none over the three tokens behind it


def test_a_model_without_fast_weights_only_forgets(build, draw_tokens):
    model, tokens = build("AA"), draw_tokens(2, 15)
    session = Session(model, n_passes=2)
    with torch.no_grad():
        close(feed_in(session, tokens, [1, 7, 7]), read_windows(model, tokens).logits)
    assert len(session.fast_weights) == 0


def test_bfloat16_weights_read_the_same_text_in_any_split(build, draw_tokens):
    model, tokens = build("AGAG", dtype=torch.bfloat16), draw_tokens(2, 15)
    whole, split = Session(model, n_passes=2), Session(model, n_passes=2, static=True)
    got, wanted = feed_in(split, tokens, [1] * 15), whole.feed(tokens)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, wanted, rtol=0.1, atol=0.1)
    assert split.fast_weights[0].dtype == torch.float32


BAD = [
    ([7], r"tokens must lie in the vocabulary 0..6, got 7 \(row 0, token 0\)"),
    ([[1, 2], [3, -1]], r"tokens must lie in the vocabulary 0..6, got -1 \(row 1, token 1\)"),
    ([0.5], "tokens must be integers, got torch.float32"),
    (torch.zeros(1, 2, 3, dtype=torch.long), r"tokens must be \(B, n\), \(n,\) or a list of rows, got 3 axes"),
    (torch.zeros(0, 2, dtype=torch.long), "tokens must have at least one row"),
    (["a", 1], "tokens must be numbers, all rows as deep: "),
    ([None], "tokens must be numbers, all rows as deep: "),
    ([[1], [2, [3]]], "tokens must be numbers, all rows as deep: "),
    (np.zeros((1, 2), np.float16), "tokens must be integers, got torch.float16"),
]


@pytest.mark.parametrize(("tokens", "message"), BAD)
def test_bad_tokens_are_refused_in_one_sentence(build, tokens, message):
    session = Session(build())
    with pytest.raises(ValueError, match=message):
        session.feed(tokens)
    assert session.batch_size is None


INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


@pytest.mark.parametrize(
    "form",
    [
        np.array,
        lambda rows: np.array(rows, np.uint16),
        lambda rows: [list(map(torch.tensor, row)) for row in rows],
        lambda rows: [np.array(row) for row in rows],
        lambda rows: np.array(rows)[:, ::-1][:, ::-1],
        lambda rows: np.array([row[::-1] for row in rows])[:, ::-1],
        lambda rows: np.array(rows, ">i4"),
        lambda rows: [tuple(map(np.uint64, row)) for row in rows],
        *(partial(torch.tensor, dtype=getattr(torch, name)) for name in INTEGERS),
        *(partial(np.array, dtype=name) for name in INTEGERS),
    ],
)
def test_tokens_of_other_libraries_read_as_lists_do(build, draw_tokens, form):
    model, tokens = build(), draw_tokens(2, 9)
    close(Session(model, n_passes=2).feed(form(tokens.tolist())), Session(model, n_passes=2).feed(tokens))
    row = form(tokens.tolist())[0]
    close(Session(model, n_passes=2).feed(row), Session(model, n_passes=2).feed(tokens[:1]))


@pytest.mark.parametrize(
    "form", [torch.Tensor.numpy, torch.Tensor.int, torch.Tensor.tolist, lambda mask: mask.int().tolist()]
)
def test_masks_of_zeros_and_ones_and_of_other_libraries(build, draw_tokens, form):
    model, tokens, mask = build(), draw_tokens(2, 9), draw_tokens(2, 9, seed=1) > 2
    close(Session(model, n_passes=2).feed(tokens, mask=form(mask)), Session(model, n_passes=2).feed(tokens, mask=mask))
    one = Session(model, n_passes=2).feed(tokens[0], mask=form(mask[0]))
    close(one, Session(model, n_passes=2).feed(tokens[:1], mask=mask[:1]))
    for wrong in (torch.full((2, 9), 2), torch.zeros(2, 9)):  # zeros may be added to scores: there they hide nothing
        with pytest.raises(ValueError, match=r"mask must be bool of the shape of tokens \(2, 9\), got torch"):
            Session(model).feed(tokens, mask=wrong)


def test_another_number_of_rows_or_a_mask_that_does_not_fit_is_refused(build, draw_tokens):
    session = Session(build())
    session.feed(draw_tokens(2, 3))
    S = session.fast_weights
    with pytest.raises(ValueError, match="tokens must have 2 rows, as those read before, got 3"):
        session.feed(draw_tokens(3, 1))
    with pytest.raises(ValueError, match=r"mask must be bool of the shape of tokens \(2, 4\)"):
        session.feed(draw_tokens(2, 4), mask=torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(session.fast_weights[0], S[0])


def test_bad_options_are_refused(build):
    with pytest.raises(ValueError, match="n_passes must be 1 or more"):
        Session(build(), n_passes=0)
    with pytest.raises(ValueError, match="eviction must be one of hard, sliding, got 'soft'"):
        Session(build(), eviction="soft")
    with pytest.raises(ValueError, match="copies must be 1 or more, got 0"), Session(build()).fork(0):
        pass
    with pytest.raises(ValueError, match="model must be a HybridLM; from_pretrained reads a folder, got 'tuned'"):
        Session("tuned")
    for other in (torch.nn.Linear(2, 2), torch.nn.DataParallel(build())):
        with pytest.raises(ValueError, match=f"model must be a HybridLM; .*, got '{type(other).__name__}'$"):
            Session(other)


def test_a_model_that_draws_what_it_drops_out_is_warned_of(build):
    model = build()
    model.blocks.layers[1].mixer.extra = torch.nn.Dropout(0.5)
    with pytest.warns(UserWarning, match=r"^blocks\.layers\.1\.mixer\.extra draws .*: call model\.eval\(\) before"):
        Session(model.train())
    assert model.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Session(model.eval())


def test_rows_that_were_not_read_are_not_chosen(build, draw_tokens):
    session = Session(build())
    session.feed(draw_tokens(2, 9))
    for rows in ([0, 2], [-1], []):
        with pytest.raises(ValueError, match="rows must be some of the 2 that were read, got"):
            session.reorder(rows)
    assert session.batch_size == 2


@pytest.mark.parametrize("static", [False, True])
def test_a_copy_goes_on_apart(build, draw_tokens, static):
    session, tokens = Session(build(), 3, "sliding", static=static), draw_tokens(1, 20)
    wanted = Session(build(), 3, "sliding").feed(tokens)
    for i in range(8):
        session.feed(tokens[:, i])
    twin = copy.deepcopy(session)
    twin.feed(draw_tokens(1, 9, seed=1))
    for one in (session, copy.deepcopy(session)):
        got = torch.cat([one.feed(tokens[:, i]) for i in range(8, 20)], dim=1)
        torch.testing.assert_close(got, wanted[:, 8:])


def test_a_session_says_how_it_sleeps_and_what_it_holds(build):
    session = Session(build(), 3, "sliding")
    assert repr(session) == "<Session: N = 3, sliding eviction; nothing read, windows of 6 tokens>"
    session.feed([[1, 2], [3]])
    assert (
        repr(session)
        == f"<Session: N = 3, sliding eviction; 2 rows, 1 to 2 of 6 tokens in the window, {session.nbytes:,} bytes>"
    )
    session.sleep()
    assert "2 rows, 0 of 6 tokens in the window" in repr(session)


def test_a_session_sleeps_as_its_model_was_trained_unless_it_is_told_otherwise(build, draw_tokens, tmp_path):
    trained = {"n_passes": 4, "eviction": "sliding"}
    build().save_pretrained(tmp_path, trained=trained)
    model, tokens = HybridLM.from_pretrained(tmp_path), draw_tokens(2, 20)
    session = Session(model)
    assert (session.n_passes, session.eviction) == (4, "sliding")
    with torch.no_grad():
        close(session.feed(tokens), read_windows(model, tokens, n_passes=4, eviction="sliding").logits)
    told = Session(model, 1, "hard")
    assert (told.n_passes, told.eviction) == (1, "hard")
    assert (Session(build()).n_passes, Session(build()).eviction) == (1, "hard")


def test_a_model_that_was_trained_to_loop_or_to_sleep_in_another_way_is_not_read_without_a_word(build, tmp_path):
    model = build()
    model.trained = {"wake_passes": 4}
    for options in ({}, {"n_passes": 2}):
        with pytest.raises(ValueError, match=r"^wake_passes of a model that tokens stream into must be 1, got 4$"):
            Session(model, **options)
    model.trained = {"on_overflow": "mine.Sleep", "n_passes": 1}
    with pytest.warns(UserWarning, match=r"^the model was trained with on_overflow mine\.Sleep; here n_passes says"):
        assert Session(model).n_passes == 1
    with warnings.catch_warnings(action="error"):
        Session(model, n_passes=3)
        Session(model, on_overflow=forget)
        model.save_pretrained(tmp_path)
        assert Session.from_pretrained(tmp_path, on_overflow=forget).on_overflow is forget
        build().save_pretrained(tmp_path, trained={"n_passes": 4})
        assert Session.from_pretrained(tmp_path, on_overflow=forget).n_passes == 1
    with pytest.raises(ValueError, match=r"^n_passes must be left out beside on_overflow, got 2$"):
        Session.from_pretrained(tmp_path, 2, on_overflow=forget)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("shape", ["AG", "AM", "prelude and coda"])
def test_a_stream_begins_from_the_fast_weights_that_a_reading_begins_from(build, draw_tokens, shape, eviction, static):
    model, tokens = shaped(build, shape), draw_tokens(2, 20)
    with torch.no_grad():
        S = read_windows(model, draw_tokens(2, L, seed=1), n_passes=2).fast_weights
        whole = read_windows(model, tokens, n_passes=2, eviction=eviction, fast_weights=S)
    session = Session(model, 2, eviction, static=static, fast_weights=S)
    assert session.batch_size == 2 and all(map(torch.equal, session.fast_weights.states, S.states))
    for _ in range(2):
        close(feed_in(session, tokens, SPLITS["mixed"]), whole.logits)
        close(session.fast_weights[0], whole.fast_weights[0])
        session.reset()  # to where it began


def test_fast_weights_that_do_not_fit_are_refused(build, draw_tokens):
    model, S = build(), build().init_fast_weights(2)
    for bad, message in (
        (S.states, "fast_weights must be FastWeights, got 'tuple'"),
        (build("AG").init_fast_weights(2), "fast_weights must have 2 layers, got 1"),
        (S.to(dtype=torch.float16), r"layer 0 of fast_weights must be torch.float64 of shape \(2, "),
        (S.with_layers({1: S[1][:1]}), r"layer 1 of fast_weights must be torch.float64 of shape \(2, "),
        (S.with_layers({0: None}), "layer 0 of fast_weights must be torch.float64 of shape"),
        (build().init_fast_weights(1).with_layers({0: S[0][:0]}), r"layer 0 of fast_weights must be .* \(1, "),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            Session(model, fast_weights=bad)
    with pytest.raises(ValueError, match="tokens must have 2 rows, as those read before, got 3"):
        Session(model, fast_weights=S).feed(draw_tokens(3, 2))
    assert Session(build("AA"), fast_weights=build("AA").init_fast_weights(2)).batch_size is None


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("policy", [forget, Settle(0.05, 5), partial(sleep, n_passes=3)])
def test_a_stream_sleeps_by_the_policy_that_a_reading_sleeps_by(build, draw_tokens, policy, eviction, static):
    model, tokens, events = build("AGAG"), draw_tokens(1, 20), []
    with torch.no_grad():
        whole = read_windows(model, tokens, eviction=eviction, on_overflow=policy)
    for callbacks in ((), (events.append,)):
        session = Session(model, eviction=eviction, static=static, on_overflow=policy, callbacks=callbacks)
        close(feed_in(session, tokens, SPLITS["mixed"]), whole.logits)
        close(session.fast_weights[0], whole.fast_weights[0])
    passes = {forget: 1}.get(policy, events[0].passes)
    assert len(events) == 3 and all(event.done and event.passes == passes for event in events)
    assert policy_name(policy) in repr(session)
    with pytest.raises(ValueError, match=r"^n_passes must be left out beside on_overflow, got 2$"):
        Session(model, 2, on_overflow=policy)
    with pytest.raises(ValueError, match="on_overflow must be"):
        Session(model, on_overflow=3)
