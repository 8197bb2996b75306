from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm

from lmsleep.tasks import IGNORE, Batch, Depo, Task

TEXT = {"naming": "text", "n_symbols": 75, "word_lengths": (1, 1)}
MINI = {
    "max_nodes": 5, "min_nodes": 5, "max_hops": 3, "test_hops": (1, 2, 3), "n_queries": 4, "n_symbols": 24,
    "word_lengths": (1, 1), "graph_length": 10, "question_length": 16, "window_size": 5,
}  # fmt: skip
LONG_WORDS = {"n_symbols": 3, "word_lengths": (5, 7), "graph_length": 1050, "question_length": 160}
SETTINGS = pytest.mark.parametrize(
    "settings", [{}, TEXT, MINI, LONG_WORDS], ids=["paper", "text", "mini", "long words"]
)


def rows(task: Depo, split: str = "train", seed: int = 0, step: int = 0, batch_size: int = 128) -> Batch:
    return task.rows(split=split, seed=seed, step=step, batch_size=batch_size)


@dataclass
class Alphabet:
    """What a reader has to know, written down from the vocabulary's description: 0, names, marker, k, punctuation."""

    is_text: bool
    first_last: int  # the smallest symbol that ends a name
    marker: int
    max_hops: int

    @classmethod
    def of(cls, settings: dict) -> "Alphabet":
        n_symbols, longest = settings.get("n_symbols", 50), settings.get("word_lengths", (1, 2))[1]
        marker = (2 * n_symbols if longest > 1 else n_symbols) + 1
        first_last = n_symbols + 1 if longest > 1 else 1
        return cls(settings.get("naming") == "text", first_last, marker, settings.get("max_hops", 16))


class Reader:
    """Reads a row of bare tokens one by one."""

    def __init__(self, tokens: list[int], alphabet: Alphabet) -> None:
        self.tokens, self.alphabet, self.position = tokens, alphabet, 0

    def take(self, expected: int | None = None) -> int:
        token = self.tokens[self.position]
        assert expected in (None, token)
        self.position += 1
        return token

    def name(self) -> tuple[int, ...]:
        symbols = [self.take()]
        while symbols[-1] < self.alphabet.first_last:
            symbols.append(self.take())
        assert min(symbols) > 0 and symbols[-1] < self.alphabet.marker
        return tuple(symbols)

    def graph(self, end: int) -> dict[tuple[int, ...], tuple[int, ...]]:
        successors = {}
        punctuation = self.alphabet.marker + self.alphabet.max_hops
        while self.tokens[self.position] == 0:
            self.position += 1
        while self.position < end:
            node = self.name()
            if self.alphabet.is_text:
                self.take(punctuation + 1)
            assert node not in successors
            successors[node] = self.name()
            if self.alphabet.is_text:
                self.take(punctuation + 2)
        assert self.position == end
        return successors

    def question(self) -> tuple[int, tuple[int, ...], int, tuple[int, ...]]:
        """k, the node asked about, the position of the marker, the answer."""
        hops = self.take() - self.alphabet.marker
        assert 1 <= hops <= self.alphabet.max_hops
        if self.alphabet.is_text:
            self.take(self.alphabet.marker + self.alphabet.max_hops + 3)
            self.take(self.alphabet.marker + self.alphabet.max_hops + 4)
        node = self.name()
        self.take(self.alphabet.marker)
        return hops, node, self.position - 1, self.name()


def walk(successors: dict, node: tuple[int, ...], hops: int) -> tuple[int, ...]:
    for _ in range(hops):
        node = successors[node]
    return node


def questions_in(row: list[int], start: int, alphabet: Alphabet) -> list:
    reader, questions = Reader(row, alphabet), []
    reader.position = start
    while reader.position < len(row) and row[reader.position] != 0:
        questions.append(reader.question())
    assert not any(row[reader.position :])
    return questions


@SETTINGS
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_answer_agrees_with_a_walk_over_the_emitted_edges(settings, split):
    task, alphabet = Depo(**settings), Alphabet.of(settings)
    for step in range(6):
        batch = rows(task, split, step=step, batch_size=24)
        answers = task.answers(batch.targets)
        assert batch.tokens.shape == batch.targets.shape == answers.shape == (24, task.sequence_length)
        assert batch.tokens.dtype == batch.targets.dtype == batch.slice.dtype == answers.dtype == torch.int64
        level = 0 if split == "train" else task.slices[step % len(task.slices)]
        assert batch.slice.tolist() == [level] * 24
        for row, targets, ids in zip(batch.tokens.tolist(), batch.targets.tolist(), answers.tolist(), strict=True):
            successors = Reader(row, alphabet).graph(task.graph_length)
            node, n = next(iter(successors)), len(successors)
            assert n in range(task.min_nodes, task.max_nodes + 1) and (split == "train" or n == task.max_nodes)
            assert {walk(successors, node, i) for i in range(n)} == set(successors)  # one cycle through all nodes
            questions = questions_in(row, task.graph_length, alphabet)
            assert len(questions) == len({node for _, node, _, _ in questions}) == min(n, task.n_queries)
            expected, expected_ids = [IGNORE] * len(row), [-1] * len(row)
            for j, (hops, node, marker, answer) in enumerate(questions):
                assert answer == walk(successors, node, hops)
                assert split == "train" or hops == level
                expected[marker - 1] = alphabet.marker
                expected[marker : marker + len(answer)] = answer
                expected_ids[marker : marker + len(answer)] = [j] * len(answer)
            assert targets == expected
            assert ids == expected_ids


def test_sizes_are_those_of_the_paper():
    task = Depo()
    assert isinstance(task, Task)
    assert (task.sequence_length, task.window_size, task.slices) == (360, 75, (1, 2, 4, 8, 16))
    assert task.vocab_size == 1 + 100 + 1 + 16
    assert Depo(**TEXT).vocab_size == 1 + 75 + 1 + 16 + 4
    assert Depo(**MINI).vocab_size == 1 + 24 + 1 + 3


@SETTINGS
def test_the_vocabulary_is_used_to_its_last_token(settings):
    task = Depo(**settings)
    seen = torch.cat([rows(task, step=step).tokens.flatten() for step in range(8)]).unique()
    never = {0} if settings is MINI else set()  # its graph and questions always fill the row
    assert set(seen.tolist()) == set(range(task.vocab_size)) - never


def test_windows_cut_edges_and_names():
    task, alphabet = Depo(), Alphabet.of({})
    cut = Counter()
    for row in rows(task, "test").tokens.tolist():
        reader, starts = Reader(row, alphabet), {}
        reader.position = next(i for i, token in enumerate(row) if token)
        while reader.position < task.graph_length:
            edge = reader.position
            reader.name()
            starts[edge] = (reader.position, reader.name(), reader.position)
        for boundary in range(75, 300, 75):
            for edge, (second, _, end) in starts.items():
                cut["edge"] += edge < boundary < end
                cut["name"] += edge < boundary < second or second < boundary < end
    assert cut["edge"] > cut["name"] > 50  # of 384 boundaries
    assert all(row[300] > alphabet.marker for row in rows(task).tokens.tolist())  # the first question begins window 4


@SETTINGS
def test_a_prediction_never_sees_its_answer(settings):
    task, alphabet = Depo(**settings), Alphabet.of(settings)
    batch = rows(task, batch_size=16)
    assert torch.equal(
        batch.targets[:, :-1][batch.targets[:, :-1] != IGNORE], batch.tokens[:, 1:][batch.targets[:, :-1] != IGNORE]
    )
    assert (batch.targets[:, -1] == IGNORE).all() and (batch.targets[:, : task.graph_length] == IGNORE).all()
    for row, ids in zip(batch.tokens.tolist(), task.answers(batch.targets).tolist(), strict=True):
        for position, question in enumerate(ids):
            if question >= 0:
                visible = row[task.graph_length : position + 1]
                assert visible.count(alphabet.marker) == question + 1
                spoken = visible[len(visible) - visible[::-1].index(alphabet.marker) :]
                assert len(spoken) == ids[:position].count(question)


@pytest.mark.parametrize("settings", [TEXT, MINI], ids=["text", "mini"])
def test_nothing_but_question_and_answer_depends_on_k(settings):
    """One-token names, the same stream, another k: the rows differ in k and in the answers, nowhere else."""
    one, two = (rows(Depo(**settings | {"test_hops": (k,)}), "test") for k in (1, 2))
    differs = one.tokens != two.tokens
    answer = torch.zeros_like(differs)
    answer[:, 1:] = (Depo(**settings).answers(one.targets) >= 0)[:, :-1]
    hops = one.tokens == Alphabet.of(settings).marker + 1
    assert torch.equal(differs, answer | hops)


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


def test_a_batch_depends_on_seed_split_and_step_alone():
    again = rows(Depo(), "train", 3, 5)
    for a, b in zip(rows(Depo(), "train", 3, 5)[:3], again[:3], strict=True):
        assert torch.equal(a, b)
    for split, seed, step in (("val", 3, 5), ("train", 4, 5), ("train", 3, 6)):
        assert not torch.equal(rows(Depo(), split, seed, step).tokens, again.tokens)
    assert not torch.equal(rows(Depo(), "val", 3, 5).tokens, rows(Depo(), "test", 3, 5).tokens)


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


def test_masked_padding_is_padding():
    assert rows(Depo()).mask is None
    plain, masked = rows(Depo()), rows(Depo(mask_padding=True))
    assert torch.equal(plain.tokens, masked.tokens) and torch.equal(plain.targets, masked.targets)
    assert masked.mask is not None and torch.equal(~masked.mask, plain.tokens == 0)
    assert not masked.mask[masked.targets != IGNORE].logical_not().any()


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


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"naming": "letters"}, "naming", "letters"),
        ({"min_nodes": 1}, "min_nodes", "1"),
        ({"min_nodes": 76}, "min_nodes", "76"),
        ({"max_hops": 75}, "max_hops", "75"),
        (MINI | {"max_hops": 5}, "max_hops", "5"),
        ({"max_hops": 0}, "max_hops", "0"),
        ({"max_hops": 8}, "test_hops", r"\(1, 2, 4, 8, 16\)"),
        ({"test_hops": ()}, "test_hops", r"\(\)"),
        ({"test_hops": (1, 1)}, "test_hops", r"\(1, 1\)"),
        ({"test_hops": (0, 1)}, "test_hops", r"\(0, 1\)"),
        ({"n_queries": 0}, "n_queries", "0"),
        ({"n_symbols": 0}, "n_symbols", "0"),
        ({"window_size": 0}, "window_size", "0"),
        ({"word_lengths": (0, 2)}, "word_lengths", r"\(0, 2\)"),
        ({"word_lengths": (2, 1)}, "word_lengths", r"\(2, 1\)"),
        ({"word_lengths": (1, 1)}, "n_symbols", "50"),
        ({"word_lengths": (1, 3)}, "n_symbols", "50"),
        ({"graph_length": 299}, "graph_length", "299"),
        ({"naming": "text"}, "graph_length", "300"),
        ({"question_length": 59}, "question_length", "59"),
        ({"n_queries": 11}, "question_length", "60"),
        ({"window_size": 70}, "graph_length", "300"),
    ],
)
def test_bad_input_is_one_sentence(settings, field, value):
    with pytest.raises(ValueError, match=rf"^{field} must be [^\n]*, got '?{value}'?$"):
        Depo(**settings)


def test_unknown_split_is_refused():
    for call in (lambda: rows(Depo(), "dev"), lambda: Depo().floor("dev")):
        with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
            call()
