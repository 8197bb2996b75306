"""What chance decides in Depo: the distributions of n, k, names and places, and the loss of one who knows the names."""

from collections import Counter

import numpy as np
import pytest
from depo_reader import MINI, Alphabet, Reader, questions_in, rows
from scipy.stats import chisquare, norm

from lmsleep.tasks import Depo


def test_the_place_of_the_needed_edge_says_nothing():
    task = Depo(**MINI)
    places = Counter()
    successors_seen = Counter()
    for step in range(0, 30, 3):  # k = 1
        for row in rows(task, "test", step=step).tokens.tolist():
            for _, node, _, answer in questions_in(row, 10, Alphabet.of(MINI)):
                places[row[:10:2].index(node[0])] += 1
                rank = sorted(row[:10:2]).index
                successors_seen[(rank(answer[0]) - rank(node[0])) % 5] += 1
    assert sorted(places) == [0, 1, 2, 3, 4] and chisquare(list(places.values())).pvalue > 1e-3
    assert sorted(successors_seen) == [1, 2, 3, 4] and chisquare(list(successors_seen.values())).pvalue > 1e-3


def test_n_and_k_follow_their_distributions():
    task = Depo()
    nodes, hops = Counter(), Counter()
    for step in range(60):
        tokens = rows(task, seed=1, step=step).tokens.numpy()
        ends = (tokens[:, :300] > 50) & (tokens[:, :300] <= 100)
        nodes.update((ends.sum(axis=1) // 2).tolist())
        hops.update((tokens[tokens > 101] - 101).tolist())
    weights = np.array([1 / (n + 75**0.5) for n in range(3, 76)])
    expected = weights / weights.sum() * 60 * 128
    assert chisquare([nodes[n] for n in range(3, 76)], expected).pvalue > 1e-3
    assert sum(nodes.values()) == 60 * 128
    assert sorted(hops) == list(range(1, 17)) and chisquare(list(hops.values())).pvalue > 1e-3


def test_names_are_drawn_like_the_reference():
    """The reference draws words until n are different; compare how many are short, for many and for few nodes."""

    def draw_one_by_one(rng: np.random.Generator, n: int) -> int:
        names = set()
        while len(names) < n:
            names.add(tuple(rng.integers(0, 50, rng.integers(1, 3))))
        return sum(len(name) == 1 for name in names)

    rng = np.random.default_rng(0)
    for n in (4, 75):
        task = Depo(max_nodes=n, min_nodes=n, max_hops=1, test_hops=(1,))
        graph = rows(task, batch_size=600).tokens[:, :300]
        short = (2 * n - (graph > 0).sum(dim=1) / 2).numpy()
        reference = np.array([draw_one_by_one(rng, n) for _ in range(600)])
        error = np.sqrt((short.var(ddof=1) + reference.var(ddof=1)) / 600)
        assert abs(short.mean() - reference.mean()) < norm.isf(5e-4) * error


def test_floor_at_n_75():
    floor = Depo().floor("test")
    assert floor.per_answer == pytest.approx(np.log(75))
    assert floor.per_answer_token == pytest.approx(2.70, abs=0.01)
    assert floor.per_token == pytest.approx(1.66, abs=0.005)


def test_floor_of_training_rows():
    floor = Depo().floor("train", rows_alike=True)
    assert floor == pytest.approx((2.96, 1.93, 1.17), abs=0.01)
    # the mean over targets, as the loss takes it, from the emitted rows alone
    nats = answers = tokens = 0
    for step in range(20):
        batch = rows(Depo(), seed=2, step=step)
        for row, ids in zip(batch.tokens.tolist(), Depo().answers(batch.targets).tolist(), strict=True):
            n, asked = len(Reader(row, Alphabet.of({})).graph(300)), max(ids) + 1
            nats, answers, tokens = nats + asked * np.log(n), answers + asked, tokens + sum(i >= 0 for i in ids)
    assert Depo().floor("train") == pytest.approx((nats / answers, nats / tokens, nats / (tokens + answers)), rel=0.01)


def test_floor_is_exact_for_names_of_one_length():
    assert Depo(**MINI).floor("train") == pytest.approx((np.log(5), np.log(5), np.log(5) / 2))
    assert Depo(**MINI).floor() == pytest.approx(Depo(**MINI).floor("train", rows_alike=True))
