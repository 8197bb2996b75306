"""What a pass of a sleep starts from, against loops over the passes written by hand."""

import pytest
import torch
import torch.nn.functional as F

from lmsleep import HybridConfig, Session, read_windows

L, N = 6, 3
# The start of passes 2..N, from h and S as the pass before left them, the embedded window and the S from before it.
STARTS = {
    "carry": lambda h, S, embedded, before: (h, S),
    "reset": lambda h, S, embedded, before: (h, before),
    "embed": lambda h, S, embedded, before: (embedded, S),
    "cut_h": lambda h, S, embedded, before: (h.data, S),
}


def by_hand(model, tokens, targets, start):
    """Loss and S after two windows of N passes each and one with loss."""
    S = model.init_fast_weights(len(tokens))
    for window in (tokens[:, :L], tokens[:, L : 2 * L]):
        embedded, before = model.embed(window), S
        h, S = model.blocks(embedded, S)
        for _ in range(N - 1):
            h, S = model.blocks(*start(h, S, embedded, before))
    h, S = model.blocks(model.embed(tokens[:, 2 * L :]), S)
    return F.cross_entropy(model.logits(h).flatten(0, 1), targets[:, 2 * L :].flatten()), S


def check(model, out, loss, S):
    """Equal values, and equal gradients for every parameter."""
    torch.testing.assert_close(out.loss, loss)
    torch.testing.assert_close(out.fast_weights.states, S.states)
    got, want = (torch.autograd.grad(x, list(model.parameters())) for x in (out.loss, loss))
    torch.testing.assert_close(got, want)
    return got


@pytest.mark.parametrize("pattern", ["AGAG", "AM", "AJ"])
@pytest.mark.parametrize("name", STARTS)
def test_a_pass_starts_from_what_its_name_says(build, rows, name, pattern):
    model = build(pattern, between_passes=name)
    grads = check(model, read_windows(model, *rows, n_passes=N), *by_hand(model, *rows, STARTS[name]))
    carry = build(pattern)
    plain = torch.autograd.grad(read_windows(carry, *rows, n_passes=N).loss, list(carry.parameters()))
    assert (name == "carry") == all(map(torch.allclose, grads, plain))


def test_without_any_gradient_the_last_pass_of_the_last_sleep_alone_is_trained(build, rows):
    """All before it is a constant, which an ordinary run of as many passes leaves."""
    model, (tokens, targets) = build(between_passes="cut"), rows
    with torch.no_grad():
        S = model.init_fast_weights(len(tokens))
        for window, passes in ((tokens[:, :L], N), (tokens[:, L : 2 * L], N - 1)):
            h = model.embed(window)
            for _ in range(passes):
                h, S = model.blocks(h, S)
    _, S = model.blocks(h, S)
    h, S = model.blocks(model.embed(tokens[:, 2 * L :]), S)
    loss = F.cross_entropy(model.logits(h).flatten(0, 1), targets[:, 2 * L :].flatten())
    check(model, read_windows(model, tokens, targets, n_passes=N), loss, S)


@pytest.mark.parametrize("name", [*STARTS, "cut"])
def test_a_pass_awake_starts_from_the_one_before(build, rows, name):
    """Whatever a pass of a sleep starts from, loops awake are those of a looped language model."""
    found = []
    for model in (build(between_passes=name), build()):
        loss = read_windows(model, *rows, wake_passes=3).loss
        found.append((loss, torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(*found)


def test_one_pass_starts_from_nothing_else(build, rows):
    losses = {read_windows(build(between_passes=name), *rows, n_passes=1).loss.item() for name in (*STARTS, "cut")}
    assert len(losses) == 1


@pytest.mark.parametrize("name", ["reset", "cut_h", "cut"])
def test_a_session_starts_its_passes_alike(build, draw_tokens, name):
    model, tokens = build(between_passes=name), draw_tokens(2, 2 * L)
    session = Session(model, n_passes=N)
    for part in tokens.split(4, dim=1):
        session.feed(part)
    session.sleep()
    torch.testing.assert_close(session.fast_weights.states, read_windows(model, tokens, n_passes=N).fast_weights.states)


def test_a_session_keeps_no_tokens_to_embed_anew(build, draw_tokens):
    """Neither for `between_passes` nor for a sleep of one's own, which a reading gives them."""

    def anew(blocks, h, S):
        return blocks(blocks.wake.embedded, S)

    tokens, model = draw_tokens(1, L + 1), build(between_passes="embed")
    reading = read_windows(build(), tokens, on_overflow=anew)
    torch.testing.assert_close(reading.fast_weights.states, read_windows(model, tokens, n_passes=2).fast_weights.states)
    rule = "between_passes must not be 'embed', nor an on_overflow read wake.embedded, in a session"
    for session in (Session(model, n_passes=2), Session(build(), on_overflow=anew)):
        with pytest.raises(ValueError, match=f"^{rule}, which keeps no tokens$"):
            session.feed(tokens)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"between_passes": "none"}, "between_passes must be one of carry, reset, embed, cut_h, cut, got 'none'"),
        (
            {"between_passes": "embed", "loop": (1, 4)},
            r"loop must start at the first block with between_passes='embed', got \(1, 4\)",
        ),
    ],
)
def test_what_cannot_start_a_pass_is_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        HybridConfig(pattern="AGAG", **options)
