"""Rule 110 against a solver that looks every cell up in the rule's table."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from lmsleep.tasks import IGNORE, Rule110
from lmsleep.tasks.rule110 import rule110_step

TABLE = {"111": 0, "110": 1, "101": 1, "100": 0, "011": 1, "010": 1, "001": 1, "000": 0}


def evolve(cells, steps):
    """`steps` steps on a ring, cell by cell."""
    for _ in range(steps):
        ring = [cells[-1], *cells, cells[0]]
        cells = [TABLE["".join(map(str, ring[j : j + 3]))] for j in range(len(cells))]
    return cells


def rows(task, split="train", seed=0, step=0, batch_size=16):
    return task.rows(split=split, seed=seed, step=step, batch_size=batch_size)


def test_the_table_is_number_110():
    assert sum(bit << int(neighbours, 2) for neighbours, bit in TABLE.items()) == 110


@pytest.mark.parametrize("width", [3, 4, 7])
def test_a_step_equals_the_table_for_every_state(width):
    states = np.arange(2**width, dtype=np.uint64)
    for state, new in zip(states, rule110_step(states, width), strict=True):
        cells = [int(b) for b in f"{int(state):0{width}b}"]
        assert f"{int(new):0{width}b}" == "".join(map(str, evolve(cells, 1)))


@pytest.mark.parametrize(
    "task",
    [
        Rule110(0),
        Rule110(1),
        Rule110(32),
        Rule110(16, width=63, n_states=2),
        Rule110(5, width=12, n_states=2),
        Rule110(9, 3, 1),
    ],
)
def test_labels_are_those_of_the_solver(task):
    batch = rows(task)
    context = batch.tokens[:, : task.width * task.n_states].view(16, task.n_states, task.width)
    labels = batch.targets[:, -task.n_states :]
    for b in range(16):
        for i in range(task.n_states):
            assert labels[b, i] == evolve(context[b, i].tolist(), task.steps)[0]


def test_the_layout_is_that_of_the_docstring():
    task = Rule110(steps=8)
    assert (task.vocab_size, task.window_size, task.sequence_length, task.slices) == (3, 24, 100, (8,))
    batch = rows(task)
    assert batch.tokens.shape == batch.targets.shape == (16, 100) and batch.mask is None
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64
    assert set(batch.tokens[:, :96].unique().tolist()) == {0, 1}
    assert (batch.tokens[:, 96] == Rule110.START).all()
    assert torch.equal(batch.tokens[:, 97:], batch.targets[:, 96:99])
    assert (batch.targets[:, :96] == IGNORE).all() and set(batch.targets[:, 96:].unique().tolist()) == {0, 1}
    assert batch.slice.tolist() == [8] * 16
    assert torch.equal(task.answers(batch.targets), torch.where(batch.targets == IGNORE, -1, 0))


def test_the_base_rate_of_the_ring_is_the_known_one():
    """P(y = 1 | t = 32) on a ring of 24 cells, all strings counted: 0.56166 (bits are fair, states independent)."""
    batch = rows(Rule110(steps=32), batch_size=60_000)
    n = 4 * 60_000
    assert batch.targets[:, 96:].double().mean().item() == pytest.approx(0.56166, abs=4 * 0.5 / n**0.5)
    assert batch.tokens[:, :96].double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / (24 * n) ** 0.5)
    answers = batch.targets[:, 96:].double()
    correlation = torch.corrcoef(answers.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / 60_000**0.5


@pytest.mark.parametrize(("steps", "width", "n_states"), [(0, 4, 2), (1, 3, 1), (2, 7, 3), (5, 7, 2), (9, 3, 2)])
def test_the_majority_is_that_of_every_possible_row(steps, width, n_states):
    labels = [evolve([int(b) for b in f"{s:0{width}b}"], steps)[0] for s in range(2**width)]
    answers = Counter(itertools.product(labels, repeat=n_states)) if width < 5 else None
    ones = sum(labels) / len(labels)
    expected = max(ones, 1 - ones) ** n_states if answers is None else max(answers.values()) / len(labels) ** n_states
    assert Rule110(steps, width, n_states).majority() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("steps", "percent"), [(4, 8.20), (8, 8.54), (10, 8.78), (12, 8.72), (14, 9.43), (16, 9.55), (32, 9.95)]
)
def test_the_majority_of_the_papers_rings(steps, percent):
    """Every string of 24 cells, counted by another program (bit by bit, in C)."""
    assert 100 * Rule110(steps).majority() == pytest.approx(percent, abs=0.005)


def test_the_majority_of_too_many_states_is_not_counted():
    assert Rule110(16, width=40, n_states=2).majority() is None
    assert Rule110(11, width=63).majority() == Rule110(11, width=23).majority()  # the same 23 cells decide


def test_the_same_counter_gives_the_same_rows_and_a_prefix_of_more():
    task = Rule110(4)
    assert torch.equal(rows(task, step=5).tokens, rows(task, step=5).tokens)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  the global generators must not matter
    assert torch.equal(rows(task, step=5).tokens, rows(Rule110(4), step=5).tokens)
    assert torch.equal(rows(Rule110(9), step=5).tokens[:, :96], rows(task, step=5).tokens[:, :96])


def test_streams_are_disjoint():
    """Rows of 96 random bits: none may occur twice, whatever split, seed or step it is from."""
    seen = set()
    total = 0
    for split in ("train", "val", "test"):
        for seed in (0, 1, 2**40):
            for step in (0, 1, 2, 10**6, 2**40):
                states = rows(Rule110(0), split, seed, step, 64).tokens[:, :96]
                seen |= {bytes(row.tolist()) for row in states}
                total += 64
    assert len(seen) == total


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": -1}, "steps must be 0 or more, got -1"),
        ({"width": 2}, "width must be between 3 and 63, got 2"),
        ({"width": 64}, "width must be between 3 and 63, got 64"),
        ({"n_states": 0}, "n_states must be between 1 and width=24, got 0"),
        ({"n_states": 25}, "n_states must be between 1 and width=24, got 25"),
    ],
)
def test_a_bad_argument_is_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Rule110(**change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"step": -1}, "step must be 0 or more, got -1"),
        ({"seed": 2**64}, f"seed must be at most {2**64 - 1}, got {2**64}"),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),  # numpy would take it for 1
        ({"step": 1.5}, "step must be an integer, got 1.5"),
        ({"seed": "1"}, "seed must be an integer, got '1'"),
    ],
)
def test_a_bad_counter_is_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        rows(Rule110(1), **change)
