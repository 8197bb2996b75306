"""What chance decides in Depo: the distributions of n, k, names and places, and the loss of one who knows the names."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from depo_reader import MINI, Alphabet, questions_in, rows
from scipy.stats import chi2, chisquare, norm

from lmsleep.metrics import row_scores
from lmsleep.tasks import Depo

WORDS = {"naming": "words"}
FULL = MINI | {"min_nodes": MINI["max_nodes"]}


def test_the_place_of_the_needed_edge_says_nothing():
    task, n = Depo(**FULL), FULL["max_nodes"]
    places = Counter()
    successors_seen = Counter()
    for step in range(0, 10 * len(task.slices), len(task.slices)):  # k = 1
        for row in rows(task, "test", step=step).tokens.tolist():
            left = row[: task.graph_length : 4]
            for _, node, _, answer in questions_in(row, task.graph_length, Alphabet.of(FULL)):
                places[left.index(node[0])] += 1
                successors_seen[(answer[0] - node[0]) % n] += 1
    assert sorted(places) == list(range(n)) and chisquare(list(places.values())).pvalue > 1e-3
    assert sorted(successors_seen) == list(range(1, n)) and chisquare(list(successors_seen.values())).pvalue > 1e-3


def test_n_and_k_follow_their_distributions():
    task = Depo()
    nodes, hops = Counter(), Counter()
    for step in range(60):
        tokens = rows(task, seed=1, step=step).tokens.numpy()
        names = (tokens[:, :300] > 0) & (tokens[:, :300] <= 75)
        nodes.update((names.sum(axis=1) // 2).tolist())
        hops.update((tokens[(tokens > 76) & (tokens <= 92)] - 76).tolist())
    weights = np.array([1 / (n + 75**0.5) for n in range(3, 76)])
    expected = weights / weights.sum() * 60 * 128
    assert chisquare([nodes[n] for n in range(3, 76)], expected).pvalue > 1e-3
    assert sum(nodes.values()) == 60 * 128
    assert sorted(hops) == list(range(1, 17)) and chisquare(list(hops.values())).pvalue > 1e-3


def test_words_are_drawn_like_the_reference():
    """The reference draws words until n are different; compare how many are short, for many and for few nodes."""

    def draw_one_by_one(rng: np.random.Generator, n: int) -> int:
        names = set()
        while len(names) < n:
            names.add(tuple(rng.integers(0, 50, rng.integers(1, 3))))
        return sum(len(name) == 1 for name in names)

    rng = np.random.default_rng(0)
    for n in (4, 75):
        task = Depo(max_nodes=n, min_nodes=n, max_hops=1, test_hops=(1,), **WORDS)
        graph = rows(task, batch_size=600).tokens[:, :300]
        short = (2 * n - (graph > 0).sum(dim=1) / 2).numpy()
        reference = np.array([draw_one_by_one(rng, n) for _ in range(600)])
        error = np.sqrt((short.var(ddof=1) + reference.var(ddof=1)) / 600)
        assert abs(short.mean() - reference.mean()) < norm.isf(5e-4) * error


def test_any_names_of_the_alphabet_may_be_drawn():
    """With more symbols than nodes every name is as likely in the cycle as any other."""
    tokens = rows(Depo(n_symbols=100), "test", batch_size=400).tokens[:, :300:4].flatten()
    seen = tokens.bincount(minlength=101)
    assert seen[0] == 0 and len(seen) == 101
    # 75 of 100 without repetition vary a quarter as much as independent draws, and 100 / 99 of that for the fixed sum
    assert chi2.sf(chisquare(seen[1:].double()).statistic * 4 * 0.99, 99) > 1e-3


def test_floor_at_n_75():
    known = Depo().baselines()
    assert known["answer_floor"] == pytest.approx(dict.fromkeys(map(str, Depo().slices), np.log(75)))
    assert known["floor"]["16"] == pytest.approx(2.16, abs=0.005)
    assert Depo(n_symbols=100).baselines() == known


def test_floor_at_n_75_with_words():
    known = Depo(**WORDS).baselines()
    assert known["answer_floor"]["1"] == pytest.approx(2.70, abs=0.01)
    assert known["floor"]["1"] == pytest.approx(1.66, abs=0.005)


def test_floor_is_the_loss_of_a_uniform_guess_among_the_cycle_s_names():
    """The scores that a validation reports, of logits that hold the `:` and every name of the row alike."""
    task = Depo(**MINI)
    batch = rows(task, "val")
    ids, known = task.answers(batch.targets), torch.zeros(task.vocab_size)
    known[1 : MINI["max_nodes"] + 1] = 1.0  # the longest cycle has all names
    colon = torch.nn.functional.one_hot(torch.tensor(task.marker), task.vocab_size)
    logits = torch.where((ids >= 0)[..., None], known, colon).log().clamp(min=-1e4)
    sums, counts = row_scores(logits, batch.targets, ids)
    loss, answer_loss = (sums.sum(dim=1) / counts.sum(dim=1))[:2].tolist()
    known = [task.baselines()[name]["1"] for name in ("answer_floor", "floor")]
    assert (answer_loss, loss) == pytest.approx(known, rel=1e-5)
    assert (answer_loss, loss) == pytest.approx((np.log(12), np.log(12) / 2), rel=1e-5)


@pytest.mark.parametrize("n", range(3, 8))
def test_guesses_are_the_best_over_every_cycle_that_is_not_ruled_out(n):
    """Brute force: all cycles of n nodes that agree with what is known of node 0, each as likely."""
    cycles = [(0, *order) for order in itertools.permutations(range(1, n))]
    beside = [cycle for cycle in cycles if cycle[1] == 1 and cycle[-1] == n - 1]
    both_ways = [tuple(range(n)), (0, *range(n - 1, 0, -1))]
    known = Depo(max_nodes=n, min_nodes=n, max_hops=n - 1, test_hops=tuple(range(1, n))).baselines()
    for k in range(1, n):
        best = [Counter(c[k] for c in left).most_common(1)[0][1] / len(left) for left in (beside, both_ways)]
        found = [known[name][str(k)] for name in ("names", "neighbours", "undirected")]
        assert found == pytest.approx([1 / n, *best])
