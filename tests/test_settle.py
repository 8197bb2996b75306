"""A sleep that stops when S settles, against single rows read with as many passes as a loop by hand says."""

import pytest
import torch

from lmsleep import read_windows
from lmsleep.settle import Settle

L, MOST = 6, 6


def passes_by_hand(model, row, threshold):
    """Of one window of one row: passes until the mean over layers of |S' - S| / |S'| is below the threshold."""
    h, S = model.blocks(model.embed(row[None]), model.init_fast_weights(1))
    for made in range(2, MOST + 1):
        h, after = model.blocks(h, S)
        changes = [(b - a).square().sum().sqrt() / b.square().sum().sqrt() for a, b in zip(S, after, strict=True)]
        if sum(changes) / len(changes) < threshold:
            return made
        S = after
    return MOST


@pytest.mark.parametrize("rank", [0, 2, 4])
def test_each_row_stops_by_itself_and_keeps_what_it_had(build, draw_tokens, rank):
    """The threshold lies between the changes of rows, so that some of them stop before others."""
    model, tokens = build(), draw_tokens(5, L)
    with torch.no_grad():
        changes = []
        read_windows(
            model, tokens, on_overflow=lambda blocks, h, S: (h, changes.append(blocks(h, S)[1].changes(S)) or S)
        )
        threshold = changes[0].mean(0).sort().values[rank].item() + 1e-9
        wanted, made = [passes_by_hand(model, row, threshold) for row in tokens], []
        rule = Settle(threshold, MOST, made.append)
        found = read_windows(model, tokens, on_overflow=rule).fast_weights
        assert [passes.tolist() for passes in made] == [wanted]
        assert wanted.count(2) == rank + 1
        for i, (row, n) in enumerate(zip(tokens, wanted, strict=True)):
            alone = read_windows(model, row[None], n_passes=n).fast_weights
            torch.testing.assert_close(tuple(state[i : i + 1] for state in found.states), alone.states)


@pytest.mark.parametrize(("threshold", "n"), [(0.0, MOST), (float("inf"), 2)])
def test_the_ends_are_the_most_passes_and_two(build, draw_tokens, threshold, n):
    model, tokens, made = build("AM"), draw_tokens(3, 2 * L), []
    rule = Settle(threshold, MOST, made.append)
    torch.testing.assert_close(
        read_windows(model, tokens, on_overflow=rule).fast_weights.states,
        read_windows(model, tokens, n_passes=n).fast_weights.states,
    )
    assert [passes.tolist() for passes in made] == [[n] * 3] * 2


@pytest.mark.parametrize(("options", "name"), [((0.1, 0), "most"), ((-0.1, 2), "threshold")])
def test_a_number_out_of_range_is_refused(options, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        Settle(*options)
