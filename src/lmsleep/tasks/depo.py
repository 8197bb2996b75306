"""Depo: walk k hops along a directed cycle whose edges have left the context (paper section 6.2)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmsleep.checks import check_integer, check_types, require
from lmsleep.tasks.base import IGNORE, MAX_LENGTH, Batch, Task, check_batch_size, stream
from lmsleep.tasks.names import Names

MAX_NAMES = 1 << 15  # a row draws from an array over all possible names
MAX_WORD = 16  # tokens of a name
FLOOR_ROWS = 512  # rows sampled for the mean name length in `Depo.baselines`


@dataclass(frozen=True)
class Depo(Task):
    """Name the node k hops after a given node of a directed cycle, in the layout of section 6.2.

    Row at the paper's sizes; a name is one token, an edge four, a question six:

        tokens   _ _ _ b -> a , f -> .. | .. l , .. | .. | .. , e -> b , | 1 hop after a : c 4 hop after e : d .. _
        targets  - - - - -  - - - -  .. | .. - - .. | .. | .. - - -  - - | - -   -     : c - - -   -     : d - .. -
        window             0            |     1     | 2  |       3       |                   4

    The targets marked - are ignored by the loss: it counts `:` and answers. The edges are shuffled, and padded on the
    left to `graph_length`, which 75 of them fill. Windows are cut every `window_size` tokens from the start, through
    edges. The questions ask about different nodes and begin a window; they too are cut every `window_size` tokens if
    they are longer. Padding is an ordinary token unless `mask_padding` is set.

    In the split `train`, n is drawn with weight 1 / (n + sqrt(max_nodes)), k uniformly for each question, and every row
    has slice 0; k may exceed n and then goes round. In `val` and `test`, n is `max_nodes` and all questions of a row
    ask for the k that is its slice.

    With `naming="words"` the row is that of Physics of Language Models 4.1, appendix A.1: names are words of one or two
    tokens (u = u1 u2), x y is an edge, Qk asks for k hops, A answers; 75 nodes take 224 to 256 and 47 to 56 tokens:

        tokens   _ _ _ x y x y .. | .. x y .. | .. x y .. | .. x y x y | Q3 u1 u2 A  v1 v2 Q9 ..  _ _
        targets  - - - - - - - .. | .. - - .. | .. - - .. | .. - - - - | -  -  A  v1 v2 -  -  ..  - -
        window          0         |     1     |     2     |     3      |              4

    Args:
        max_nodes: most nodes of a cycle.
        min_nodes: fewest nodes of a training cycle; equal to `max_nodes`, n is fixed.
        max_hops: K, the most hops asked for in training; less than `max_nodes`.
        test_hops: the slices of `val` and `test`.
        n_queries: most questions in a row; a cycle of fewer nodes gets one per node.
        n_symbols: V, symbols that names are made of; None: `max_nodes`, so that the longest cycle has them all, and 50
            with words.
        graph_length: tokens of all graph windows together, padding included; a multiple of `window_size`.
        question_length: tokens of the questions, padding on the right included.
        window_size: L, tokens in a window.
        mask_padding: `Batch.mask` is False on padding.
        naming: "text" writes `b -> a ,` and `k hop after a : c`, "words" `x y` and `Qk u A v`.
        word_lengths: with words alone, the shortest and the longest in tokens (see `Names`); None: (1, 2).

    Raises:
        ValueError: if an argument is out of range, the names cannot be distinct, or the row does not fit.
    """

    max_nodes: int = 75
    min_nodes: int = 3
    max_hops: int = 16
    test_hops: tuple[int, ...] = (1, 2, 4, 8, 16)
    n_queries: int = 10
    n_symbols: int | None = None
    graph_length: int = 300
    question_length: int = 60
    window_size: int = 75  # pyright: ignore[reportIncompatibleMethodOverride] (the field is the property)
    mask_padding: bool = False
    naming: Literal["text", "words"] = "text"
    word_lengths: tuple[int, int] | None = None

    PAD = 0

    def __post_init__(self) -> None:
        check_types(self)
        most, hops = self.max_nodes, self.test_hops
        check_integer("max_nodes", most, 2, MAX_NAMES)
        check_integer("min_nodes", self.min_nodes, 2, MAX_NAMES)
        check_integer("max_hops", self.max_hops, 1, MAX_NAMES)
        self._require("min_nodes", self.min_nodes <= most, f"between 2 and max_nodes={most}")
        self._require("max_hops", self.max_hops < most, f"at least 1 and less than max_nodes={most}")
        within = 0 < len(set(hops)) == len(hops) and set(hops) <= set(range(1, self.max_hops + 1))
        self._require("test_hops", within, f"different integers between 1 and max_hops={self.max_hops}")
        for field in ("n_queries", "window_size", "graph_length", "question_length"):
            check_integer(field, getattr(self, field), 1, MAX_LENGTH)
        self._check_names()
        edge, question = self._widths
        for field, count, width in (("graph_length", most, edge), ("question_length", self._n_questions, question)):
            rule = f"at least {count * width} ({count} times up to {width} tokens)"
            self._require(field, getattr(self, field) >= count * width, rule)
        L = self.window_size
        self._require("graph_length", self.graph_length % L == 0, f"a multiple of window_size={L}")

    def _check_names(self) -> None:
        if self.word_lengths is not None:
            self._require("word_lengths", self.naming == "words", "left out unless naming='words'")
            in_order = len(self.word_lengths) == 2 and 1 <= self.word_lengths[0] <= self.word_lengths[1] <= MAX_WORD
            self._require("word_lengths", in_order, f"(shortest, longest) with 1 <= shortest <= longest <= {MAX_WORD}")
        check_integer("n_symbols", 1 if self.n_symbols is None else self.n_symbols, 1, MAX_NAMES)
        most, names = self.max_nodes, self._names
        rule = f"such that {most} to {MAX_NAMES} names of {names.shortest} to {names.longest} tokens exist"
        self._require("n_symbols", most <= len(names) <= MAX_NAMES, f"{rule} ({len(names)} do)")

    def _require(self, field: str, allowed: bool, rule: str) -> None:
        require(allowed, f"{field} must be {rule}", getattr(self, field))

    @cached_property
    def _names(self) -> Names:
        if self.naming == "text":
            return Names(self.n_symbols or self.max_nodes)
        return Names(self.n_symbols or 50, *(self.word_lengths or (1, 2)))

    @property
    def _widths(self) -> tuple[int, int]:
        """Most tokens of an edge and of a question."""
        names = 2 * self._names.longest
        return (names + 2, names + 4) if self.naming == "text" else (names, names + 2)

    @property
    def _n_questions(self) -> int:
        return min(self.n_queries, self.max_nodes)

    @property
    def marker(self) -> int:
        """The token before an answer, `:` or A; names have smaller ids, hop count k has the id `marker + k`."""
        return 1 + self._names.n_tokens

    @property
    def vocab_size(self) -> int:
        return self.marker + self.max_hops + (5 if self.naming == "text" else 1)

    @property
    def sequence_length(self) -> int:
        return self.graph_length + self.question_length

    @property
    def slices(self) -> tuple[int, ...]:
        return self.test_hops

    def _draw_row(self, rng: np.random.Generator, n: np.ndarray, hops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cycles of n (B,) nodes, questions of `hops` (B, Q) -> tokens (B, T), and which of them carry loss (B, T)."""
        width, names = self.max_nodes, self._names
        cycle = np.take_along_axis(names.draw(rng, len(n), width), _shuffle(rng, n, width), axis=1)

        def spell(nodes: np.ndarray) -> np.ndarray:
            return names.table[np.take_along_axis(cycle, nodes % n[:, None], axis=1)]

        edge = _shuffle(rng, n, width)
        start = _shuffle(rng, n, width)[:, : hops.shape[1]]
        ask = (self.marker + hops)[..., None]
        if self.naming == "text":
            arrow, comma, hops_word, after = range(self.marker + self.max_hops + 1, self.vocab_size)
            edges = _join(spell(edge), arrow, spell(edge + 1), comma)
            ask = _join(ask, hops_word, after)
        else:
            edges = _join(spell(edge), spell(edge + 1))
        questions = _join(ask, spell(start), self.marker, spell(start + hops))
        counted = np.broadcast_to(np.arange(questions.shape[2]) >= ask.shape[2] + names.longest, questions.shape)
        edges[np.arange(width) >= n[:, None]] = self.PAD
        questions[np.arange(hops.shape[1]) >= n[:, None]] = self.PAD
        graph = _pack(edges, edges != self.PAD, self.graph_length, left_padded=True)
        asked = _pack(questions, questions != self.PAD, self.question_length)
        counted = _pack(counted, questions != self.PAD, self.question_length)
        return np.concatenate([graph, asked], axis=1), np.pad(counted, ((0, 0), (self.graph_length, 0)))

    def rows(self, *, split: str, seed: int, step: int, batch_size: int) -> Batch:
        check_batch_size(batch_size)
        rng, shape = stream(seed, split, step), (batch_size, self._n_questions)
        if split == "train":
            counts = np.arange(self.min_nodes, self.max_nodes + 1)
            weights = 1 / (counts + np.sqrt(self.max_nodes))
            n = rng.choice(counts, batch_size, p=weights / weights.sum())
            hops, level = rng.integers(1, self.max_hops + 1, shape), 0
        else:
            level = self.test_hops[step % len(self.test_hops)]
            n, hops = np.full(batch_size, self.max_nodes), np.full(shape, level)
        drawn, counted = self._draw_row(rng, n, hops)
        targets = np.full_like(drawn, IGNORE)
        targets[:, :-1][counted[:, 1:]] = drawn[:, 1:][counted[:, 1:]]
        tokens = torch.from_numpy(drawn)
        mask = tokens != self.PAD if self.mask_padding else None
        return Batch(tokens, torch.from_numpy(targets), torch.full((batch_size,), level, device=tokens.device), mask)

    def answers(self, targets: Tensor) -> Tensor:
        """The question of each token of an answer; markers belong to no answer."""
        marks = targets == self.marker
        return torch.where(marks | (targets == IGNORE), -1, marks.cumsum(dim=1) - 1)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores on test rows of predictors that know a part of the cycle, by kind and number of hops.

        `floor` and `answer_floor` are the losses, in nats a target and a token of an answer, of knowing the names only:
        log n an answer, spread over its tokens. They are exact if all names are equally long; otherwise the mean length
        is estimated from `FLOOR_ROWS` sets (standard error below 0.2 % at the paper's sizes). Shares of right answers:
        `names` for the same knowledge; `neighbours` for also knowing the nodes before and after the one asked about;
        `undirected` for knowing the whole cycle but not its direction.
        """
        n, names, hops = self.max_nodes, self._names, self.test_hops
        drawn = names.lengths[names.draw(stream(0, "test", 0), FLOOR_ROWS, n)]
        nats = float(np.log(n))
        length = float(drawn.mean(axis=0).cumsum()[-1] / n)
        same = {"floor": nats / (length + 1), "answer_floor": nats / length, "names": 1 / n}  # at every number of hops
        return {name: dict.fromkeys(map(str, hops), score) for name, score in same.items()} | {
            # k hops lead to a neighbour, or to one of the n - 3 nodes that are neither the node nor its neighbours.
            "neighbours": {str(k): 1.0 if k in (1, n - 1) else 1 / (n - 3) for k in hops},
            "undirected": {str(k): 1.0 if 2 * k == n else 0.5 for k in hops},
        }


def _shuffle(rng: np.random.Generator, n: np.ndarray, width: int) -> np.ndarray:
    """A random permutation of 0 .. n-1 in each row, followed by n .. width-1: (B, width)."""
    keys = rng.random((len(n), width))
    keys[np.arange(width) >= n[:, None]] += 1
    return np.argsort(keys, axis=1)


def _join(*parts: np.ndarray | int) -> np.ndarray:
    """Concatenates phrases: arrays (B, R, w) and single tokens -> (B, R, sum of w)."""
    shape = next(part.shape[:2] for part in parts if isinstance(part, np.ndarray))
    return np.concatenate([np.broadcast_to(p, (*shape, 1)) if isinstance(p, int) else p for p in parts], axis=2)


def _pack(values: np.ndarray, present: np.ndarray, width: int, *, left_padded: bool = False) -> np.ndarray:
    """The present values of (B, R, w), in order and without gaps: (B, width), padded with zeros."""
    flat = present.reshape(len(present), -1)
    column = flat.cumsum(axis=1) - 1
    if left_padded:
        column += width - 1 - column[:, -1:]
    packed = np.zeros((len(flat), width), dtype=values.dtype)
    packed[np.nonzero(flat)[0], column[flat]] = values.reshape(flat.shape)[flat]
    return packed
