"""What can influence what: only S crosses a window boundary, no row another row, and padding nothing at all."""

import pytest
import torch

from lmsleep import FastWeights, read_windows
from lmsleep.sleep import sleep
from lmsleep.windows import IGNORE

PATTERNS = ["AG", "GA", "AGAG", "AM", "AJ"]
L = 6


def cut(blocks, h, S):
    return h, FastWeights(tuple(torch.zeros_like(state) for state in S.states))


def embedded(model, tokens, targets, **kwargs):
    """The loss, and its gradient with respect to the embedding of every token, (B, T, D)."""
    seen = []
    hook = model.embedding.register_forward_hook(lambda _, __, out: seen.append(out) or out.retain_grad())
    out = read_windows(model, tokens, targets, **kwargs)
    hook.remove()
    out.loss.backward()
    model.zero_grad()
    return out, torch.cat([torch.zeros_like(e) if e.grad is None else e.grad for e in seen], dim=1)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_without_S_earlier_tokens_have_no_influence_and_no_gradient(build, rows, draw_tokens, pattern):
    """Covers every hidden second memory: attention cache, h, and the short convolution."""
    model, (tokens, targets) = build(pattern), rows
    other = torch.cat([draw_tokens(5, 2 * L, seed=9), tokens[:, 2 * L :]], dim=1)
    out, grads = embedded(model, tokens, targets, on_overflow=cut)
    assert torch.equal(out.scored_logits, read_windows(model, other, targets, on_overflow=cut).scored_logits)
    assert not grads[:, : 2 * L].any() and grads[:, 2 * L :].any()

    whole, grads = embedded(model, tokens, targets, n_passes=2)
    influence = (whole.scored_logits - read_windows(model, other, targets, n_passes=2).scored_logits).abs()
    assert (influence.amax(-1) > 1e-9).all()
    assert (grads.abs().amax(-1) > 1e-12).all()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("n_passes", [1, 3])
def test_evicted_tokens_act_through_S_alone(build, rows, draw_tokens, pattern, n_passes):
    """Reading other tokens, but leaving the sleeps the S of these ones, gives the logits of these ones."""
    model, (tokens, targets) = build(pattern), rows
    kept = []

    def record(blocks, h, S):
        h, S = sleep(blocks, h, S, n_passes)
        kept.append(S)
        return h, S

    want = read_windows(model, tokens, targets, on_overflow=record).scored_logits
    other = torch.cat([draw_tokens(5, 2 * L, seed=9), tokens[:, 2 * L :]], dim=1)
    replay = iter(kept)
    got = read_windows(model, other, targets, on_overflow=lambda blocks, h, S: (h, next(replay))).scored_logits
    assert torch.equal(got, want)
    assert not torch.equal(read_windows(model, other, targets, n_passes=n_passes).scored_logits, want)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_row_does_not_depend_on_the_other_rows(build, rows, draw_tokens, pattern):
    model, (tokens, targets) = build(pattern), rows
    out = read_windows(model, tokens, targets, n_passes=2).scored_logits
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(read_windows(model, tokens[order], targets[order], n_passes=2).scored_logits, out[order])
    for b in range(5):
        alone = read_windows(model, tokens[b : b + 1], targets[b : b + 1], n_passes=2).scored_logits
        torch.testing.assert_close(alone[0], out[b])
    other = tokens.clone()
    other[1:] = draw_tokens(4, tokens.shape[1], seed=5)
    assert torch.equal(read_windows(model, other, targets, n_passes=2).scored_logits[0], out[0])
    first_only = targets.clone()
    first_only[1:] = IGNORE
    _, grads = embedded(model, tokens, first_only, n_passes=2)
    assert grads[0].any() and not grads[1:].any()


def padded(tokens, targets, n):
    """`n` tokens of padding on the left, and their mask."""
    left = torch.full((len(tokens), n), 3)
    mask = torch.cat([torch.zeros_like(left, dtype=torch.bool), torch.ones_like(tokens, dtype=torch.bool)], dim=1)
    return torch.cat([left, tokens], dim=1), torch.cat([torch.full_like(left, IGNORE), targets], dim=1), mask


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("eviction", ["hard", "sliding"])
def test_a_window_of_padding_leaves_no_trace(build, rows, pattern, eviction):
    model, (tokens, targets) = build(pattern), rows
    want = read_windows(model, tokens, targets, n_passes=3, eviction=eviction)
    longer, longer_targets, mask = padded(tokens, targets, L)
    got = read_windows(model, longer, longer_targets, n_passes=3, mask=mask, eviction=eviction)
    torch.testing.assert_close(got.scored_logits, want.scored_logits)
    for state, wanted in zip(got.fast_weights.states, want.fast_weights.states, strict=True):
        torch.testing.assert_close(state, wanted)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("eviction", ["hard", "sliding"])
def test_padding_inside_a_window_leaves_no_trace(build, draw_tokens, pattern, eviction):
    """Two tokens of padding before four real ones, against a model whose windows hold four."""
    tokens, targets = draw_tokens(3, 4 + L + 2), draw_tokens(3, 4 + L + 2, seed=1)
    targets[:, : 4 + L] = IGNORE
    model = build(pattern)
    longer, longer_targets, mask = padded(tokens, targets, 2)
    got = read_windows(model, longer, longer_targets, n_passes=3, mask=mask, eviction=eviction)
    other = longer.clone()
    other[:, :2] = draw_tokens(3, 2, seed=4)
    again = read_windows(model, other, longer_targets, n_passes=3, mask=mask, eviction=eviction)
    assert torch.equal(got.scored_logits, again.scored_logits)
    assert all(map(torch.equal, got.fast_weights.states, again.fast_weights.states))
    _, grads = embedded(model, longer, longer_targets, n_passes=3, mask=mask, eviction=eviction)
    assert not grads[:, :2].any() and (grads[:, 2:].abs().amax(-1) > 1e-12).all()

    short = build(pattern, window_size=4)
    h, S = short.blocks(short.embed(tokens[:, :4]), short.init_fast_weights(3))
    h, S = sleep(short.blocks, h, S, n_passes=3)
    first = read_windows(model, longer[:, :L], n_passes=3, mask=mask[:, :L]).fast_weights
    for state, wanted in zip(first.states, S.states, strict=True):
        torch.testing.assert_close(state, wanted)


def test_padding_differs_from_row_to_row(build, draw_tokens):
    model, tokens = build(), draw_tokens(3, L)
    mask = torch.arange(L) >= torch.tensor([[0], [2], [5]])
    S = read_windows(model, tokens, n_passes=2, mask=mask).fast_weights
    for b in range(3):
        alone = read_windows(model, tokens[b : b + 1], n_passes=2, mask=mask[b : b + 1]).fast_weights
        torch.testing.assert_close(S.norms()[:, b : b + 1], alone.norms())
    unmasked = read_windows(model, tokens, n_passes=2).fast_weights
    torch.testing.assert_close(S.norms()[:, 0], unmasked.norms()[:, 0])
    assert (S.norms()[:, 1:] - unmasked.norms()[:, 1:]).abs().min() > 1e-6
