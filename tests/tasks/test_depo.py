"""Depo's rows, read by someone who knows the vocabulary alone; and the settings that are refused."""

import re
from collections import Counter

import pytest
import torch
from depo_reader import MINI, Alphabet, Reader, questions_in, rows, walk

from lmsleep.tasks import IGNORE, Depo, Task

WORDS = {"naming": "words"}
SHORT_WORDS = WORDS | {"n_symbols": 75, "word_lengths": (1, 1)}
LONG_WORDS = WORDS | {"n_symbols": 3, "word_lengths": (5, 7), "graph_length": 1050, "question_length": 160}
SETTINGS = pytest.mark.parametrize(
    "settings", [{}, MINI, WORDS, SHORT_WORDS, LONG_WORDS], ids=["paper", "mini", "words", "short words", "long words"]
)


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
    assert task.vocab_size == 1 + 75 + 1 + 16 + 4
    assert Depo(n_symbols=100).vocab_size == 1 + 100 + 1 + 16 + 4
    assert Depo(**WORDS).vocab_size == 1 + 100 + 1 + 16
    assert Depo(**SHORT_WORDS).vocab_size == 1 + 75 + 1 + 16


def test_a_row_reads_as_the_paper_prints_it():
    """`b->a, f->l, ... e->b` and `1 hop after a: c ... 4 hops after e: d`, spelled out from the vocabulary's order."""
    task = Depo(max_nodes=4, min_nodes=4, max_hops=3, test_hops=(3,), n_queries=2)
    words = ["_", *"abcd", ":", "1", "2", "3", "->", ",", "hop", "after"]
    assert task.vocab_size == len(words)
    for tokens in rows(task, "test").tokens.tolist():
        text = " ".join(words[token] for token in tokens)
        assert re.fullmatch(r"(_ )+([a-d] -> [a-d] , ){4}(3 hop after [a-d] : [a-d] ){2}_( _)*", text)


def test_75_nodes_fill_the_row_exactly():
    for split in ("val", "test"):
        for step in range(len(Depo().slices)):
            assert (rows(Depo(), split, step=step).tokens != 0).all()
    widths = (rows(Depo(**WORDS), "test").tokens != 0).long()
    graph, questions = widths[:, :300].sum(dim=1), widths[:, 300:].sum(dim=1)
    assert 220 < graph.min() < graph.max() < 260 and 44 < questions.min() < questions.max() < 60


def test_the_figure_asks_for_no_more_than_half_way_round():
    """Of a longer way the other direction would be the shorter one; and all questions see each other."""
    for task in (Depo(), Depo(**MINI)):
        assert task.max_nodes > 2 * task.max_hops
        assert task.question_length <= task.window_size and task.graph_length >= 2 * task.window_size


@SETTINGS
def test_the_vocabulary_is_used_to_its_last_token(settings):
    task = Depo(**settings)
    seen = torch.cat([rows(task, step=step).tokens.flatten() for step in range(8)]).unique()
    assert set(seen.tolist()) == set(range(task.vocab_size))


def test_windows_cut_edges():
    """Of 75 edges `b -> a ,` the boundaries at 75, 150, 225 cut three: before the comma, behind and before an arrow."""
    tokens = rows(Depo(), "test").tokens
    arrow, comma = Depo().vocab_size - 4, Depo().vocab_size - 3
    assert (tokens[:, [75, 149, 225]] == torch.tensor([comma, arrow, arrow])).all()


def test_windows_cut_words_and_their_edges():
    task, alphabet = Depo(**WORDS), Alphabet.of(WORDS)
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
    for settings in ({}, WORDS):  # the first question begins window 4
        assert (rows(Depo(**settings)).tokens[:, 300] > Alphabet.of(settings).marker).all()


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


@pytest.mark.parametrize("settings", [{}, MINI, SHORT_WORDS], ids=["paper", "mini", "short words"])
def test_nothing_but_question_and_answer_depends_on_k(settings):
    """One-token names, the same stream, another k: the rows differ in k and in the answers, nowhere else."""
    one, two = (rows(Depo(**settings | {"test_hops": (k,)}), "test") for k in (1, 2))
    differs = one.tokens != two.tokens
    answer = torch.zeros_like(differs)
    answer[:, 1:] = (Depo(**settings).answers(one.targets) >= 0)[:, :-1]
    hops = one.tokens == Alphabet.of(settings).marker + 1
    assert torch.equal(differs, answer | hops)


def test_a_batch_depends_on_seed_split_and_step_alone():
    again = rows(Depo(), "train", 3, 5)
    for a, b in zip(rows(Depo(), "train", 3, 5)[:3], again[:3], strict=True):
        assert torch.equal(a, b)
    for split, seed, step in (("val", 3, 5), ("train", 4, 5), ("train", 3, 6)):
        assert not torch.equal(rows(Depo(), split, seed, step).tokens, again.tokens)
    assert not torch.equal(rows(Depo(), "val", 3, 5).tokens, rows(Depo(), "test", 3, 5).tokens)


def test_masked_padding_is_padding():
    assert rows(Depo()).mask is None
    plain, masked = rows(Depo()), rows(Depo(mask_padding=True))
    assert torch.equal(plain.tokens, masked.tokens) and torch.equal(plain.targets, masked.targets)
    assert masked.mask is not None and torch.equal(~masked.mask, plain.tokens == 0)
    assert not masked.mask[masked.targets != IGNORE].logical_not().any()


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"naming": "letters"}, "naming", "letters"),
        ({"min_nodes": 1}, "min_nodes", "1"),
        ({"min_nodes": 76}, "min_nodes", "76"),
        ({"max_hops": 75}, "max_hops", "75"),
        (MINI | {"max_hops": 12}, "max_hops", "12"),
        ({"max_hops": 0}, "max_hops", "0"),
        ({"max_hops": 8}, "test_hops", r"\(1, 2, 4, 8, 16\)"),
        ({"test_hops": ()}, "test_hops", r"\(\)"),
        ({"test_hops": (1, 1)}, "test_hops", r"\(1, 1\)"),
        ({"test_hops": (0, 1)}, "test_hops", r"\(0, 1\)"),
        ({"test_hops": (1.0,)}, "item 0 of test_hops", "1.0"),
        ({"min_nodes": 2.5}, "min_nodes", "2.5"),
        ({"max_hops": 2.5}, "max_hops", "2.5"),
        ({"n_queries": 0}, "n_queries", "0"),
        ({"n_symbols": 0}, "n_symbols", "0"),
        ({"window_size": 0}, "window_size", "0"),
        ({"n_symbols": 74}, "n_symbols", "74"),
        ({"word_lengths": (1, 2)}, "word_lengths", r"\(1, 2\)"),
        (WORDS | {"word_lengths": (0, 2)}, "word_lengths", r"\(0, 2\)"),
        (WORDS | {"word_lengths": (1,)}, "word_lengths", r"\(1,\)"),
        (WORDS | {"word_lengths": (2, 1)}, "word_lengths", r"\(2, 1\)"),
        (WORDS | {"n_symbols": 50, "word_lengths": (1, 1)}, "n_symbols", "50"),
        (WORDS | {"n_symbols": 50, "word_lengths": (1, 3)}, "n_symbols", "50"),
        ({"graph_length": 299}, "graph_length", "299"),
        (WORDS | {"word_lengths": (2, 3), "n_symbols": 9}, "graph_length", "300"),
        ({"question_length": 59}, "question_length", "59"),
        ({"n_queries": 11}, "question_length", "60"),
        ({"window_size": 70}, "graph_length", "300"),
    ],
)
def test_bad_input_is_one_sentence(settings, field, value):
    with pytest.raises(ValueError, match=rf"^{field} must be [^\n]*, got '?{value}'?$"):
        Depo(**settings)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
        rows(Depo(), "dev")
