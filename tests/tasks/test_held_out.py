"""Groups that stay whole in shares of their items."""

import numpy as np
import pytest

from lmsleep.tasks.held_out import hold_out


def held(sizes, parts=2, share=0.1, seed=0):
    """The groups of each part and of the rest, and their items."""
    found = hold_out(np.array(sizes), parts, share, seed)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(sizes))) and all(map(len, found))
    return [group.tolist() for group in found], [sum(sizes[i] for i in group) for group in found]


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_met_whatever_the_sizes(seed):
    rng = np.random.default_rng(seed)
    sizes = np.concatenate([rng.integers(1, 40, 60), np.ones(200, int)])
    total = sizes.sum()
    _, items = held(sizes.tolist(), seed=seed)
    assert items[:2] == [round(total / 10)] * 2


@pytest.mark.parametrize("seed", range(20))
def test_a_group_larger_than_a_share_is_in_the_rest(seed):
    groups, items = held([1] * 20 + [60] + [1] * 20, seed=seed)
    assert items == [10, 10, 80] and 20 in groups[2]
    groups, items = held([300, 1, 1, 1], share=0.2, seed=seed)  # a share has room for all the others
    assert items == [1, 1, 301] or items == [2, 1, 300]


@pytest.mark.parametrize("seed", range(20))
def test_every_part_has_a_group_and_the_rest_the_largest(seed):
    groups, _ = held([50, 50, 80], seed=seed)
    assert groups[2] == [2]
    assert held([7, 3, 8], 1, seed=seed)[0][0] == [1]  # the smallest, where none fits


@pytest.mark.parametrize(
    ("count", "parts", "share"), [(40, 2, 0.1), (3, 2, 0.4), (4, 1, 0.49), (7, 2, 0.499), (9, 0, 0.1)]
)
def test_groups_of_one_are_divided_in_the_order_that_is_drawn(count, parts, share):
    order = np.random.default_rng(5).permutation(count).tolist()
    size = max(1, min(round(share * count), (count - 1) // max(1, parts)))
    cuts = [order[i * size : (i + 1) * size] for i in range(parts)]
    assert held([1] * count, parts, share, seed=5)[0] == [*cuts, order[parts * size :]]
    assert held([1] * count, parts, share, seed=5)[0] == held([1] * count, parts, share, seed=5)[0]
