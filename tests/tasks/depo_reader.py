"""A reader of Depo's rows that knows the vocabulary by its description alone."""

from dataclasses import dataclass
from pathlib import Path

from lmsleep.figures.settings import merge_configs
from lmsleep.tasks import Batch, Depo

_CONFIG = merge_configs([Path(__file__).parents[2] / "configs/experiment/depo.yaml"])
MINI = {k: tuple(v) if isinstance(v, list) else v for k, v in _CONFIG["data"]["task"]["init_args"].items()}


def rows(task: Depo, split: str = "train", seed: int = 0, step: int = 0, batch_size: int = 128) -> Batch:
    return task.rows(split=split, seed=seed, step=step, batch_size=batch_size)


@dataclass
class Alphabet:
    """What a reader has to know, written down from the vocabulary's description: 0, names, marker, k, and in text
    the arrow, the comma, "hop" and "after"."""

    is_text: bool
    first_last: int  # the smallest symbol that ends a name
    marker: int
    max_hops: int

    @classmethod
    def of(cls, settings: dict) -> "Alphabet":
        is_text = settings.get("naming", "text") == "text"
        n_symbols = settings.get("n_symbols", settings.get("max_nodes", 75) if is_text else 50)
        longest = 1 if is_text else settings.get("word_lengths", (1, 2))[1]
        marker = (2 * n_symbols if longest > 1 else n_symbols) + 1
        first_last = n_symbols + 1 if longest > 1 else 1
        return cls(is_text, first_last, marker, settings.get("max_hops", 16))


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
