"""Depo: walk k hops along a directed cycle whose edges have left the context (paper section 6.2)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsleep.tasks.base import IGNORE, Batch, Task, stream

MAX_NAMES = 1 << 15  # every row draws from all possible names at once
FLOOR_ROWS = 512  # sampled rows behind the mean name length in `Depo.floor`


class Floor(NamedTuple):
    """Loss in nats of a model that knows the cycle's names and the answer marker, but not which name follows which."""

    per_answer: float
    per_answer_token: float
    per_token: float  # answer tokens and markers: the mean over all targets


@dataclass(frozen=True)
class Depo(Task):
    """Name the node k hops after a given node of a directed cycle (Physics of Language Models 4.1, appendix A.1).

    Row at the paper's sizes; x y is an edge, names have one or two tokens (u = u1 u2), Qk asks for k hops, A answers:

        tokens   _ _ _ x y x y .. | .. x y .. | .. x y .. | .. x y x y | Q3 u1 u2 A  v1 v2 Q9 ..  _ _
        targets  - - - - - - - .. | .. - - .. | .. - - .. | .. - - - - | -  -  A  v1 v2 -  -  ..  - -
        window          0         |     1     |     2     |     3      |              4

    The targets marked - are ignored by the loss: it counts markers and answer names. The edges are shuffled, written
    without separators and padded on the left to `graph_length`; windows are cut every `window_size` tokens from the
    start, through edges and names. The questions ask about different nodes and begin a window; they too are cut every
    `window_size` tokens if they are longer. Padding is an ordinary token unless `mask_padding` is set.

    In the split `train`, n is drawn with weight 1 / (n + sqrt(max_nodes)), k uniformly for each question, and every row
    has slice 0; k may exceed n and then goes round. In `val` and `test`, n is `max_nodes` and all questions of a row
    ask for the k that is its slice.

    A name is drawn as in the reference: a uniform length, then uniform symbols 1 to V, the last of which is moved to
    V + 1 to 2V to mark the end (one-token names keep 1 to V); repeated names are drawn again.

    Args:
        max_nodes: most nodes of a cycle.
        min_nodes: fewest nodes of a training cycle; equal to `max_nodes`, n is fixed.
        max_hops: K, the most hops asked for in training; less than `max_nodes`.
        test_hops: the slices of `val` and `test`.
        n_queries: most questions in a row; a cycle of fewer nodes gets one per node.
        n_symbols: V, symbols that names are made of.
        word_lengths: shortest and longest name, in tokens.
        naming: "words" writes `x y` and `Qk u A v`; "text" `x -> y ,` and `k hops after u : v` (with one-token names).
        graph_length: tokens of all graph windows together, padding included; a multiple of `window_size`.
        question_length: tokens of the questions, padding on the right included.
        window_size: L, tokens in a window.
        mask_padding: `Batch.mask` is False on padding.

    Raises:
        ValueError: if an argument is out of range, the names cannot be distinct, or the row does not fit.
    """

    max_nodes: int = 75
    min_nodes: int = 3
    max_hops: int = 16
    test_hops: tuple[int, ...] = (1, 2, 4, 8, 16)
    n_queries: int = 10
    n_symbols: int = 50
    word_lengths: tuple[int, int] = (1, 2)
    naming: Literal["words", "text"] = "words"
    graph_length: int = 300
    question_length: int = 60
    window_size: int = 75  # pyright: ignore[reportIncompatibleMethodOverride] (the field is the property)
    mask_padding: bool = False

    PAD = 0

    def __post_init__(self) -> None:
        most, hops, (shortest, longest) = self.max_nodes, self.test_hops, self.word_lengths
        self._require("naming", self.naming in ("words", "text"), "'words' or 'text'")
        self._require("min_nodes", 2 <= self.min_nodes <= most, f"between 2 and max_nodes={most}")
        self._require("max_hops", 1 <= self.max_hops < most, f"at least 1 and less than max_nodes={most}")
        different = len(hops) > 0 and len(set(hops)) == len(hops) and set(hops) <= set(range(1, self.max_hops + 1))
        self._require("test_hops", different, f"different numbers between 1 and max_hops={self.max_hops}")
        for field in ("n_queries", "n_symbols", "window_size"):
            self._require(field, getattr(self, field) >= 1, "1 or more")
        self._require("word_lengths", 1 <= shortest <= longest, "(shortest, longest) with 1 <= shortest <= longest")
        names = sum(self.n_symbols**length for length in range(shortest, longest + 1))
        rule = f"such that {most} to {MAX_NAMES} names of word_lengths={self.word_lengths} exist ({names} do)"
        self._require("n_symbols", most <= names <= MAX_NAMES, rule)

        edge = 2 * longest + (2 if self.naming == "text" else 0)
        for field, count, width in (("graph_length", most, edge), ("question_length", self._n_questions, edge + 2)):
            rule = f"at least {count * width} ({count} times up to {width} tokens)"
            self._require(field, getattr(self, field) >= count * width, rule)
        self._require(
            "graph_length", not self.graph_length % self.window_size, f"a multiple of window_size={self.window_size}"
        )

    def _require(self, field: str, allowed: bool, rule: str) -> None:
        if not allowed:
            raise ValueError(f"{field} must be {rule}, got {getattr(self, field)!r}")

    @property
    def _n_questions(self) -> int:
        return min(self.n_queries, self.max_nodes)

    @property
    def marker(self) -> int:
        """The token that precedes an answer; names lie below it, hop counts k at `marker + k`."""
        return 1 + self.n_symbols * (2 if self.word_lengths[1] > 1 else 1)

    @property
    def vocab_size(self) -> int:
        return self.marker + self.max_hops + (5 if self.naming == "text" else 1)

    @property
    def sequence_length(self) -> int:
        return self.graph_length + self.question_length

    @property
    def slices(self) -> tuple[int, ...]:
        return self.test_hops

    @cached_property
    def _names(self) -> np.ndarray:
        """All possible names, (names, longest), unused places PAD."""
        (shortest, longest), tables = self.word_lengths, []
        for length in range(shortest, longest + 1):
            symbols = np.indices((self.n_symbols,) * length).reshape(length, -1).T + 1
            symbols[:, -1] += self.n_symbols if longest > 1 else 0
            tables.append(np.pad(symbols, ((0, 0), (0, longest - length)), constant_values=self.PAD))
        return np.concatenate(tables)

    @cached_property
    def _name_lengths(self) -> np.ndarray:
        return (self._names != self.PAD).sum(axis=1)

    @cached_property
    def _node_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """The n of training cycles and their probabilities."""
        n = np.arange(self.min_nodes, self.max_nodes + 1)
        weights = 1 / (n + np.sqrt(self.max_nodes))
        return n, weights / weights.sum()

    def _draw_names(self, rng: np.random.Generator, batch_size: int) -> np.ndarray:
        """`max_nodes` different names per row, as indices (B, max_nodes) into `_names`, in the order they were drawn.

        An exponential race: arrival times with rate p(name) come in the order of draws from p that skip repetitions, so
        the first n are a draw of n names for every n.
        """
        times = rng.standard_exponential((batch_size, len(self._names)), dtype=np.float32)
        times *= (float(self.n_symbols) ** self._name_lengths).astype(np.float32)
        first = np.argpartition(times, self.max_nodes - 1, axis=1)[:, : self.max_nodes]
        return np.take_along_axis(first, np.take_along_axis(times, first, axis=1).argsort(axis=1), axis=1)

    def _draw_row(self, rng: np.random.Generator, n: np.ndarray, hops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cycles of n (B,) nodes, questions of `hops` (B, Q) -> tokens (B, T) and whether they count for the loss."""
        width, longest = self.max_nodes, self.word_lengths[1]
        cycle = np.take_along_axis(self._draw_names(rng, len(n)), _shuffle(rng, n, width), axis=1)

        def spell(nodes: np.ndarray) -> np.ndarray:
            return self._names[np.take_along_axis(cycle, nodes % n[:, None], axis=1)]

        edge, start = _shuffle(rng, n, width), _shuffle(rng, n, width)[:, : hops.shape[1]]
        ask = (self.marker + hops)[..., None]
        if self.naming == "text":
            arrow, comma, hops_word, after = range(self.marker + self.max_hops + 1, self.vocab_size)
            edges = _join(spell(edge), arrow, spell(edge + 1), comma)
            ask = _join(ask, hops_word, after)
        else:
            edges = _join(spell(edge), spell(edge + 1))
        questions = _join(ask, spell(start), self.marker, spell(start + hops))
        counted = np.broadcast_to(np.arange(questions.shape[2]) >= ask.shape[2] + longest, questions.shape)
        edges[np.arange(width) >= n[:, None]] = self.PAD
        questions[np.arange(hops.shape[1]) >= n[:, None]] = self.PAD
        graph = _pack(edges, edges != self.PAD, self.graph_length, left_padded=True)
        asked = _pack(questions, questions != self.PAD, self.question_length)
        counted = _pack(counted, questions != self.PAD, self.question_length)
        return np.concatenate([graph, asked], axis=1), np.pad(counted, ((0, 0), (self.graph_length, 0)))

    def rows(self, *, split: str, seed: int, step: int, batch_size: int) -> Batch:
        """`batch_size` rows drawn from (seed, split, step): see `Batch`."""
        rng, shape = stream(seed, split, step), (batch_size, self._n_questions)
        if split == "train":
            counts, probabilities = self._node_counts
            n = rng.choice(counts, batch_size, p=probabilities)
            hops, level = rng.integers(1, self.max_hops + 1, shape), 0
        else:
            level = self.test_hops[step % len(self.test_hops)]
            n, hops = np.full(batch_size, self.max_nodes), np.full(shape, level)
        drawn, counted = self._draw_row(rng, n, hops)
        targets = np.full_like(drawn, IGNORE)
        targets[:, :-1][counted[:, 1:]] = drawn[:, 1:][counted[:, 1:]]
        tokens = torch.from_numpy(drawn)
        mask = tokens != self.PAD if self.mask_padding else None
        return Batch(tokens, torch.from_numpy(targets), torch.full((batch_size,), level), mask)

    def answers(self, targets: Tensor) -> Tensor:
        """The tokens of an answer name carry the number of their question; markers are no part of an answer."""
        marks = targets == self.marker
        return torch.where(marks | (targets == IGNORE), -1, marks.cumsum(dim=1) - 1)

    def floor(self, split: str = "test", *, rows_alike: bool = False) -> Floor:
        """The ignorance floor of a split: log n nats per answer, spread over its tokens.

        Exact in n; the mean length of n names is exact if all names are equally long and else a mean over `FLOOR_ROWS`
        sampled sets (standard error below 0.2 % at the paper's sizes).

        Args:
            split: only "train" mixes cycles of several n.
            rows_alike: weigh all rows alike, however few their questions; by default all targets, as the loss does.

        Raises:
            ValueError: for an unknown split.
        """
        drawn = self._name_lengths[self._draw_names(stream(0, split, 0), FLOOR_ROWS)]
        n, weights = self._node_counts if split == "train" else (np.array([self.max_nodes]), np.ones(1))
        length = (drawn.mean(axis=0).cumsum() / np.arange(1, self.max_nodes + 1))[n - 1]
        nats, sizes = np.log(n), (np.ones_like(length), length, length + 1)
        if rows_alike:
            return Floor(*(float(weights @ (nats / size)) for size in sizes))
        weights = weights * np.minimum(n, self._n_questions)
        return Floor(*(float((weights @ nats) / (weights @ size)) for size in sizes))


def _shuffle(rng: np.random.Generator, n: np.ndarray, width: int) -> np.ndarray:
    """A random order (B, width) of 0 .. n-1 in each row, followed by the places from n on."""
    keys = rng.random((len(n), width))
    keys[np.arange(width) >= n[:, None]] += 1
    return np.argsort(keys, axis=1)


def _join(*parts: np.ndarray | int) -> np.ndarray:
    """Phrases side by side: arrays (B, R, w) and single tokens -> (B, R, sum of w)."""
    shape = next(part.shape[:2] for part in parts if isinstance(part, np.ndarray))
    return np.concatenate([np.broadcast_to(p, (*shape, 1)) if isinstance(p, int) else p for p in parts], axis=2)


def _pack(values: np.ndarray, present: np.ndarray, width: int, *, left_padded: bool = False) -> np.ndarray:
    """The present values of (B, R, w), in order and without gaps: (B, width), zeros after or before them."""
    flat = present.reshape(len(present), -1)
    column = flat.cumsum(axis=1) - 1
    if left_padded:
        column += width - 1 - column[:, -1:]
    packed = np.zeros((len(flat), width), dtype=values.dtype)
    packed[np.nonzero(flat)[0], column[flat]] = values.reshape(flat.shape)[flat]
    return packed
