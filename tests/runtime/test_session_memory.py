"""What a session keeps: when it sleeps, what a sleep changes, how much it holds, and what a fork shares."""

import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from threading import Barrier

import pytest
import torch
from feeding import L, close, feed_in

from lmsleep import FastWeights, Session


def test_a_full_window_is_awake_until_the_next_token(build, draw_tokens):
    events = []
    session = Session(build(), n_passes=4, callbacks=[events.append])
    session.feed(draw_tokens(1, L))
    awake = session.fast_weights
    assert not events
    session.feed(0)
    assert [event.passes for event in events] == [1, 2, 3, 4]
    assert [event.done for event in events] == [False, False, False, True]
    assert not torch.equal(session.fast_weights[0], awake[0])


def test_events_tell_rows_passes_and_the_change_of_S(build, draw_tokens):
    model, tokens, events = build("AGAG"), draw_tokens(2, L), []
    session = Session(model, n_passes=3, callbacks=[events.append])
    session.feed(tokens)
    session.sleep()
    # The change by hand, from passes over the window.
    with torch.no_grad():
        h, S = model.blocks(model.embed(tokens), model.init_fast_weights(2))
        change = []
        for _ in range(2):
            h, after = model.blocks(h, S)
            steps = [(b - a, b) for a, b in zip(S.states, after.states, strict=True)]
            change.append([(step.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).mean() for step, b in steps])
            S = after
    last = events[-1]
    assert (last.rows, last.n_tokens, last.n_passes, last.passes) == ((0, 1), L, 3, 3)
    torch.testing.assert_close(
        torch.tensor(last.change, dtype=torch.float64), torch.tensor(change, dtype=torch.float64)
    )
    assert 0 <= events[0].seconds <= last.seconds
    assert events[0].change == ()


def test_sleeping_on_an_empty_window_does_nothing(build, draw_tokens):
    events = []
    session = Session(build(), n_passes=2, callbacks=[events.append])
    session.sleep()
    session.feed(draw_tokens(1, 3))
    session.sleep()
    S = session.fast_weights
    session.sleep()
    assert len(events) == 2
    assert events[0].n_tokens == 3
    assert torch.equal(session.fast_weights[0], S[0])


def live_bytes():
    """Bytes of every tensor that lives in this process."""
    gc.collect()
    storages = [x.untyped_storage() for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    # On "meta" lie the tensors with shapes and no memory that planning and compiling leave behind.
    return sum({s.data_ptr(): s.nbytes() for s in storages if s.device.type != "meta"}.values())


@pytest.mark.parametrize(("eviction", "static"), [("hard", False), ("sliding", True)])
def test_memory_is_flat_from_10_to_200_windows(build, eviction, static):
    model = build("AG", dtype=torch.float32)
    session = Session(model, n_passes=2, eviction=eviction, static=static)
    tokens = torch.randint(7, (1, L * 190 + 1))
    measured = []
    for windows in (10, 190):
        session.feed(tokens[:, : L * windows - 1], last_only=True)
        session.feed(3)
        measured.append((live_bytes(), session.nbytes))
    assert measured[0] == measured[1]
    assert measured[0][1] > 0


def test_nbytes_counts_what_the_session_alone_keeps_alive(build, draw_tokens):
    model = build("AGAG")
    tokens = draw_tokens(2, 2 * L + 3)
    before = live_bytes()
    session = Session(model, n_passes=2, eviction="sliding")
    session.feed(tokens)
    assert live_bytes() - before == session.nbytes


def test_fork_answers_many_questions_about_one_text(build, draw_tokens):
    model, text, questions = build("AGAG"), draw_tokens(1, 15), draw_tokens(4, 8, seed=1)
    session = Session(model, n_passes=3)
    session.feed(text)
    S = session.fast_weights
    wanted = [Session(model, n_passes=3) for _ in questions]
    answers = []
    for one, question in zip(wanted, questions, strict=True):
        one.feed(text)
        answers.append(one.feed(question[None]))
        with session.fork() as branch:
            close(branch.feed(question[None]), answers[-1])
    with session.fork(copies=4) as branch:
        close(branch.feed(questions), torch.cat(answers))
    assert torch.equal(session.fast_weights[0], S[0])
    close(session.feed(questions[:1]), answers[0])


def test_fork_and_parent_share_one_decoder_in_turn(build, draw_tokens):
    model, tokens = build("AGAG"), draw_tokens(1, 9)
    static, growing = (Session(model, n_passes=2, static=choice) for choice in (True, False))
    for session in (static, growing):
        feed_in(session, tokens, [1] * 9)
    with static.fork() as branch:
        branch.feed(5)
        close(static.feed(1), growing.feed(1))
    close(static.feed(2), growing.feed(2))
    fresh = Session(model, n_passes=2)  # the branch goes on after its block
    fresh.feed(tokens)
    fresh.feed(5)
    close(branch.feed(3), fresh.feed(3))


def test_a_fork_is_a_session_without_a_block_too(build, draw_tokens):
    """And within one later, where it gets the decoder that its parent is using."""
    model, tokens = build("AGAG"), draw_tokens(1, 9)
    static, growing = (Session(model, n_passes=2, static=choice) for choice in (True, False))
    for session in (static, growing):
        feed_in(session, tokens, [1] * 9)
    branch, again = static.fork(), Session(model, n_passes=2)
    again.feed(tokens)
    close(branch.feed(5), again.feed(5))
    close(static.feed(1), growing.feed(1))
    with branch as entered:
        assert entered is branch
        close(branch.feed(3), again.feed(3))
        close(static.feed(2), growing.feed(2))
    close(branch.feed(4), again.feed(4))
    close(static.feed(4), growing.feed(4))


def test_threads_may_fork_a_static_session(build, draw_tokens):
    """All at once, again and again while the memory lies in the buffers of the decoder that the first of them gets."""
    model, text, questions = build("AGAG"), draw_tokens(1, 9)[0].tolist(), draw_tokens(8, 2, seed=1).unbind()
    sessions = [Session(model, n_passes=2, static=True) for _ in range(2)]
    meeting = Barrier(8)

    def answer(session, question, wait=lambda: None):
        wait()
        with session.fork() as branch:
            return feed_in(branch, question[None], [1] * 2)

    wrong = 0
    with ThreadPoolExecutor(8) as pool:
        for token in text:
            for session in sessions:
                session.feed(token)
            together = pool.map(partial(answer, sessions[0], wait=meeting.wait), questions)
            alone = [answer(sessions[1], question) for question in questions]
            wrong += sum(not torch.allclose(*pair) for pair in zip(together, alone, strict=True))
    assert wrong == 0


def test_threads_that_feed_one_session_take_turns(build, draw_tokens):
    model, text = build("AG"), draw_tokens(1, 1).repeat(1, 200)
    session, alone = Session(model, n_passes=2, static=True), Session(model, n_passes=2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(session.feed, text[0].tolist()))
    alone.feed(text)
    close(session.fast_weights[0], alone.fast_weights[0])


def test_feeding_changes_no_memory_that_was_handed_out(build, draw_tokens):
    session = Session(build(), n_passes=2, static=True)
    session.feed(draw_tokens(1, 4))
    S = session.fast_weights
    kept = [state.clone() for state in S.states]
    for token in draw_tokens(1, 9)[0]:
        session.feed(token)
    assert all(map(torch.equal, S.states, kept))


def test_gradients_are_not_kept(build, draw_tokens):
    session = Session(build(), n_passes=2)
    assert not session.feed(draw_tokens(2, 9)).requires_grad
    assert not any(state.requires_grad for state in session.fast_weights.states)


def test_a_session_that_read_nothing_has_zero_fast_weights(build):
    assert isinstance(Session(build()).fast_weights, FastWeights)
    assert not Session(build()).fast_weights[0].any()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("eviction", ["hard", "sliding"])
def test_a_reset_session_reads_as_a_new_one(build, draw_tokens, eviction, static):
    model, text = build("AG"), draw_tokens(3, 9)
    session = Session(model, 2, eviction, static=static)
    session.feed(draw_tokens(2, 9))
    session.generate(draw_tokens(2, 1), 3, temperature=0)
    session.reset()
    assert session.batch_size is None and not session.nbytes and not session.fast_weights[0].any()
    new = Session(model, 2, eviction)
    close(session.feed(text), new.feed(text))
    close(session.fast_weights[0], new.fast_weights[0])
    close(session.generate(text[:, :1], 4, temperature=0), new.generate(text[:, :1], 4, temperature=0))


def test_forget_keeps_what_attention_sees(build, draw_tokens):
    model, text = build("AG"), draw_tokens(2, 9)
    session = Session(model, n_passes=2)
    session.feed(text)
    session.forget()
    assert not session.fast_weights[0].any()
    # In an AG model attention comes first: its keys and values owe nothing to S, so the window alone gives the same.
    cache = session.groups[0].cache
    alone = Session(model)
    alone.feed(text[:, 6:])
    for got, wanted in zip(cache.layer(0), alone.groups[0].cache.layer(0), strict=True):
        close(got, wanted)


@pytest.mark.parametrize("block", [torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)])
def test_a_static_session_that_was_fed_in_a_block_goes_on_behind_it(build, draw_tokens, block):
    """And in it again: in the middle of a window, behind a sleep, and in one of its own dtype."""
    model, tokens = build("AGMJ", torch.float32), draw_tokens(2, 27)
    static, growing = (Session(model, n_passes=2, static=choice) for choice in (True, False))
    for number, token in enumerate(tokens.split(1, dim=1)):
        with block() if number // 4 % 2 == 0 else nullcontext():
            torch.testing.assert_close(static.feed(token), growing.feed(token))


def test_a_session_needs_no_default_device(build):
    """Rows of several lengths, copied and exchanged, are the same where torch makes new tensors elsewhere."""

    def heard(session):
        session.feed([[1, 2, 3], [4]], mask=[[1, 0, 1], [1, 1, 1]])
        session.feed([[1, 2, 3, 4, 5], [4, 5, 6, 0, 0, 1, 2]])
        with session.fork(2) as branch:
            branch.reorder([3, 0])
            said = branch.generate([[1], [2]], 4, seed=0, top_k=3, top_p=0.9)
        return said, session.feed([[1], [2]]), *session.fast_weights.states

    model = build("AGMJ")
    with torch.device("meta"):
        got = heard(Session(model, n_passes=2))
    assert all(map(torch.equal, got, heard(Session(model, n_passes=2))))
