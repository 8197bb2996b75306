"""Base of the tasks on your own text: files, splits, and the order of rows."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lmsleep.checks import check_integer, check_types, counted, require
from lmsleep.hub import open_tokenizer
from lmsleep.tasks.base import MAX_LENGTH, SPLITS, Batch, Task, check_batch_size, check_counter, check_split, stream
from lmsleep.tasks.held_out import hold_out
from lmsleep.tasks.line_index import LineIndex

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TextTask(Task):
    """Base of `TextQA`, `TextLM` and `Documents`.

    An epoch shows every row of a split once, in an order that depends on (seed, epoch); a batch has rows of equally
    many windows. Batches of `train` are full; the few rows that fill none are left out of the epoch.

    Args:
        train: a file, a pattern such as `books/*.txt`, or a dataset as `open_dataset` reads it. val, test: the same;
            None: a random share of the rows of `train`, which are then not trained on. Copies are held out together;
            more of them than a share are trained on.
        tokenizer: a tokenizer.json, a folder that holds one, a name on the Hugging Face hub, or `bytes`: one token for
            each byte of UTF-8, and `<eos>`.
        window_size: L.
        held_out: the share of rows that val takes, and test.
        split_seed: of that choice.

    Raises:
        ValueError: if an argument is out of range, a file is missing, or a line, which is named, cannot be used.
    """

    unit = "rows"  # what may have copies
    more_rows = ""  # what to do where these are too few, at the end of a message

    train: str
    val: str | None = None
    test: str | None = None
    tokenizer: str = "bytes"
    window_size: int = 128  # pyright: ignore[reportIncompatibleMethodOverride] (the field is the property)
    held_out: float = 0.1
    split_seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_integer("window_size", self.window_size, 1, MAX_LENGTH)
        require(0 < self.held_out < 0.5, "held_out must be above 0 and below 0.5", self.held_out)

    @abstractmethod
    def _index(self, source: str, name: str) -> "LineIndex":
        """The index of `source`, which the argument `name` is."""

    @abstractmethod
    def _windows(self, lines: "LineIndex") -> np.ndarray:
        """The number of windows of each row, (rows,)."""

    def _sources(self, lines: "LineIndex") -> np.ndarray | None:
        """The line that each row is of, (rows,), where the last number of a line is a hash of its text, by which copies
        are known; None: rows cross lines."""
        return None

    @abstractmethod
    def _batch(self, lines: "LineIndex", rows: np.ndarray) -> Batch:
        """The batch of these rows (B,)."""

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        return open_tokenizer(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special tokens around it. Raises ValueError if it has half a surrogate pair."""
        text.encode()
        # In two thirds of the time of `encode`, which also finds the place of each token in the text.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens))

    @property
    def vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab().values()) + 1

    def _open(self) -> None:
        """Opens the tokenizer before the lines, so that its errors name no line."""
        _ = self._tokenizer

    @cached_property
    def _lines(self) -> dict[str, "LineIndex"]:
        self._open()
        files = {name: pattern for name in SPLITS if (pattern := getattr(self, name)) is not None}
        lines = {name: self._index(pattern, name) for name, pattern in files.items()}
        contents = {name: self._contents(index) for name, index in lines.items()}
        for name in [*files][1:]:
            if shared := int(np.isin(contents[name], contents["train"]).sum()):
                some = f"{shared:,} of {counted(len(contents[name]), self.unit)} in {files[name]}, for {name}"
                are = "is" if shared == 1 else "are"
                warnings.warn(f"{some}, {are} in {self.train} too, which is trained on", stacklevel=2)
        return lines

    def _contents(self, lines: "LineIndex") -> np.ndarray:
        """What splits should not share: hashes of the lines that rows are of or, where rows cross lines, of files."""
        if (sources := self._sources(lines)) is not None:
            return np.unique(lines.table[sources, -1])
        _, starts = np.unique(lines.table[:, 0], return_index=True)
        return np.unique([hash(file.tobytes()) for file in np.split(lines.table[:, -1], starts[1:])])

    @cached_property
    def _splits(self) -> dict[str, "SplitRows"]:
        counts = {name: self._windows(lines) for name, lines in self._lines.items()}
        chosen = {name: np.arange(len(windows)) for name, windows in counts.items()}
        held = [name for name in SPLITS if name not in counts]
        for name, rows in chosen.items():
            least = 1 + len(held) * (name == "train")
            take = "take one each unless they are given" if len(held) > 1 else "takes one unless it is given"
            apart = f", of which {' and '.join(held)} {take}" if least > 1 else ""
            if len(rows) < least:
                got = f"{len(rows)} in {getattr(self, name)!r}{self.more_rows}"
                raise ValueError(f"{name} must have {least} or more rows{apart}, got {got}")
        groups, sizes = self._groups(self._lines["train"], len(chosen["train"]), 1 + len(held))
        parts = hold_out(sizes, len(held), self.held_out, self.split_seed)
        places = np.argsort(np.concatenate(parts))  # of the groups
        rows = np.argsort(places[groups], kind="stable")
        ends = np.cumsum([np.isin(groups, part).sum() for part in parts])
        chosen |= zip([*held, "train"], np.split(rows, ends[:-1]), strict=True)
        files = {name: name if name in counts else "train" for name in SPLITS}
        return {
            name: SplitRows(self._lines[file], chosen[name], counts[file][chosen[name]], len(counts[file]))
            for name, file in files.items()
        }

    def _groups(self, lines: "LineIndex", rows: int, least: int) -> tuple[np.ndarray, np.ndarray]:
        """The group in which each row of train is held out (rows,), in the order of their first lines, and how many
        lines each has: a line and its copies, or where these are fewer than `least`, a row."""
        alone = np.arange(rows), np.ones(rows, int)
        if (sources := self._sources(lines)) is None:
            files = len(np.unique(lines.table[:, 0]))
            if (copies := files - len(self._contents(lines))) and least > 1:
                are = "is a copy of another" if copies == 1 else "are copies of others"
                some = f"{copies:,} of {counted(files, 'files')} in {self.train} {are}"
                warnings.warn(f"{some}: rows held out of one are trained on in another", stacklevel=2)
            return alone
        present, source = np.unique(sources, return_inverse=True)
        _, first, group = np.unique(lines.table[present, -1], return_index=True, return_inverse=True)
        if len(first) < least:
            few = f"too few different {self.unit} to hold one out, {len(first)} in {self.train}"
            warnings.warn(f"{few}: rows are held out, copies or not", stacklevel=2)
            return alone
        if (copies := len(present) - len(first)) and least > 1:
            some = f"{copies:,} of {counted(len(present), self.unit)} in {self.train}"
            told = "is a copy of another, and is held out with it"
            told = told if copies == 1 else "are copies of others, and are held out with them"
            warnings.warn(f"{some} {told} or not at all", stacklevel=2)
        group = np.argsort(np.argsort(first))[group]
        return group[source], np.bincount(group)

    @property
    def slices(self) -> tuple[int, ...]:
        """The numbers of windows of context that rows have."""
        return tuple(np.unique(np.concatenate([rows.windows for rows in self._splits.values()])).tolist())

    def rows(self, *, split: str, seed: int, step: int, batch_size: int) -> Batch:
        numbers = self.row_numbers(split=split, seed=seed, step=step, batch_size=batch_size)
        return self._batch(self._splits[split].lines, np.array(numbers))

    def row_numbers(self, *, split: str, seed: int, step: int, batch_size: int) -> list[int]:
        """See `Task.row_numbers`; empty lines do not count. Those that are held out count among those of `train`."""
        check_split(split)
        check_counter("seed", seed)
        check_counter("step", step)
        rows = self._splits[split]
        epoch, position = divmod(step, epoch_steps(rows, split, batch_size))
        return rows.rows[epoch_batches(rows, split, seed, epoch, batch_size)[position]].tolist()

    def held_out_steps(self, split: str, batch_size: int, n_rows: int) -> int:
        return epoch_steps(self._splits[split], split, batch_size)

    def epoch_steps(self, batch_size: int) -> int:
        return epoch_steps(self._splits["train"], "train", batch_size)

    def __str__(self) -> str:
        counts = {name: len(rows.rows) for name, rows in self._splits.items()}
        held = [f"{counts[name]:,} of {getattr(self, name) or 'the same, held out,'} for {name}" for name in SPLITS[1:]]
        trained = f"{counted(counts['train'], 'rows')} of {self.train} to train on"
        return f"{type(self).__name__}: {trained}, {' and '.join(held)}"


@dataclass(frozen=True, eq=False)
class SplitRows:
    """The rows of a split: their numbers (n,) among the `total` rows of the lines, and the windows of each (n,)."""

    lines: LineIndex
    rows: np.ndarray
    windows: np.ndarray
    total: int


def epoch_steps(rows: SplitRows, split: str, batch_size: int) -> int:
    """Batches of an epoch. Raises ValueError if `train` does not fill one, or a batch cannot have so many rows."""
    check_batch_size(batch_size)
    if split != "train":
        return -(-len(rows.rows) // batch_size)
    n, apart = len(rows.rows), rows.total - len(rows.rows)
    note = f" (of {rows.total:,}; held out: {apart:,})" if apart else ""
    require(batch_size <= n, f"batch_size must be at most the {counted(n, 'rows')} of train{note}", batch_size)
    return n // batch_size


@lru_cache(maxsize=4)
def epoch_batches(rows: SplitRows, split: str, seed: int, epoch: int, batch_size: int) -> list[np.ndarray]:
    """The rows (batch_size,) of each batch of an epoch."""
    rng = stream(seed, split, epoch)
    order = rng.permutation(len(rows.rows))[: epoch_steps(rows, split, batch_size) * batch_size]
    order = order[np.argsort(rows.windows[order], kind="stable")]
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return [batches[i] for i in rng.permutation(len(batches))]
