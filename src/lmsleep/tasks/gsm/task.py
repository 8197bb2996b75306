"""GSM-Infinite as a task: a question, a problem, and a number to answer with (paper sections 6.3 and 6.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmsleep.checks import check_integer, check_types, require
from lmsleep.tasks.base import IGNORE, MAX_LENGTH, Batch, Task, check_batch_size, check_counter, stream
from lmsleep.tasks.gsm.draws import Draws
from lmsleep.tasks.gsm.encoder import TokenizerFile, WordVocabulary
from lmsleep.tasks.gsm.problem import ProblemConfig, draw_problem, loss_windows
from lmsleep.tasks.gsm.stored import Dataset, Split

Loss = Literal["answer", "text"]

# The shortest wording, four windows of 32 tokens and a bit.
MINI = ProblemConfig(
    ops=(1, 4),
    templates=("terse",),
    layers=(2,),
    width=(1, 3),
    max_value=99,
    length=(132, 160),
    instruction=False,
    window_sizes=(32,),
)


@dataclass(frozen=True)
class GSMInfinite(Task):
    """Answer a word problem that takes `op` operations; the slice of a row is its `op`.

    Row, here in the terse words of mini scale:

        tokens   Question : animals in creek ? Problem : lynx in creek equals .. 3 . Answer :   7   PAD PAD
        targets     -     -    -    -    -   -    -    -   -   -   -     -    -  - -   -    7 <eos>  -   -
        mask        1     1    1    1    1   1    1    1   1   1   1     1    1  1 1   1    1   1    0   0

    The targets marked - are ignored by the loss, which counts the answer and the end of sequence (together one answer).
    With `loss="text"` every target is the next token: language modelling, in which no window sleeps without
    `--sleep.after_loss=true`. The prompt fills several windows. By Algorithm 1 a window with loss never sleeps, so all
    rows of a batch must have their answer in the same windows:

    * with `path`, rows come from a dataset that `make_dataset` wrote, sorted into buckets by the windows of their
      answer. A batch comes from one bucket, padded to the end of its last window or to `sequence_length`. Batches of
      `train` are full; rows that fill none are left out of the epoch, whose order depends on (seed, epoch). `val` and
      `test` show every row once in `held_out_steps` steps, in batches of at most `batch_size` rows.
    * without `path`, problems are drawn from (seed, split, step) in the built-in vocabulary of words, with every answer
      in the last window; all rows are padded to `sequence_length`.

    No problem is in two splits, stored or drawn.

    Args:
        path: a dataset; None: problems are drawn.
        window_size: L.
        problem: what is drawn without `path`.
        tokenizer: with `path`, the tokenizer.json of the model, which must have the vocabulary of the dataset.
        eos_token: end of sequence in that tokenizer.
        loss: `answer`, or `text` in the built-in vocabulary; scores are those of the answer.

    Raises:
        ValueError: if an argument is out of range, the dataset is damaged, or it was made with another vocabulary.
    """

    path: str | None = None
    window_size: int = 32  # pyright: ignore[reportIncompatibleMethodOverride] (the field is the property)
    problem: ProblemConfig = MINI
    tokenizer: str | None = None
    eos_token: str = "<|endoftext|>"
    loss: Loss = "answer"

    def __post_init__(self) -> None:
        check_types(self)
        counted = self.loss == "answer" or self.tokenizer is None
        require(counted, "loss must be 'answer' with a tokenizer, whose answers have any number of tokens", self.loss)
        check_integer("window_size", self.window_size, 1, MAX_LENGTH)
        if self.path is not None:
            _ = self._dataset
            return
        if self.tokenizer is not None:
            raise ValueError("tokenizer needs path: without it problems are drawn in the built-in vocabulary of words")
        low, high = self.problem.length  # the answer and the end of sequence are the last two tokens
        first, _ = loss_windows(low - 2, low, self.window_size)
        _, last = loss_windows(high - 2, high, self.window_size)
        rule = f"windows of the answers must be one, and not window 0, under length {low}, {high} and window_size"
        require(0 < first == last, f"{rule} {self.window_size}", (first, last))

    @cached_property
    def _dataset(self) -> Dataset:
        assert self.path is not None
        return Dataset(self.path, None if self.tokenizer is None else TokenizerFile(self.tokenizer, self.eos_token))

    @cached_property
    def vocabulary(self) -> WordVocabulary:
        """The built-in vocabulary of words that problems are drawn in."""
        return WordVocabulary(self.problem.templates, self.problem.max_value)

    @property
    def vocab_size(self) -> int:
        return self.vocabulary.vocab_size if self.path is None else self._dataset.vocabulary["size"]

    @property
    def sequence_length(self) -> int:
        """Tokens of the longest row, its end of sequence left out."""
        length = self.problem.length if self.path is None else self._dataset.config["problem"]["length"]
        return length[1] - 1

    @property
    def slices(self) -> tuple[int, ...]:
        low, high = self.problem.ops if self.path is None else self._dataset.config["problem"]["ops"]
        return tuple(range(low, high + 1))

    def rows(self, *, split: str, seed: int, step: int, batch_size: int) -> Batch:
        """The rows of (seed, split, step). Raises ValueError for an unknown split or one without rows, a seed or step
        as of `check_counter`, or a batch that no bucket fills."""
        chosen = self.row_numbers(split=split, seed=seed, step=step, batch_size=batch_size)
        if chosen is None:
            return self._draw(split, seed, step, batch_size)
        source = self._dataset.split(split)
        starts, lengths, ops = (of[chosen].tolist() for of in (source.starts, source.lengths, source.ops))
        last = loss_windows(starts[0], lengths[0], self.window_size)[1]
        width = min((last + 1) * self.window_size, self.sequence_length)
        rows = [source.tokens(row) for row in chosen]
        return self._batch(rows, starts, ops, width, self._dataset.vocabulary["pad_id"])

    def row_numbers(self, *, split: str, seed: int, step: int, batch_size: int) -> list[int] | None:
        """See `Task.row_numbers`: with `path`, the places of the rows in the file of the split."""
        check_batch_size(batch_size)
        check_counter("seed", seed)
        check_counter("step", step)
        if self.path is None:
            return None
        source = self._dataset.split(split)
        if split == "train":
            epoch, position = divmod(step, epoch_steps(source, self.window_size, batch_size))
            return epoch_batches(source, self.window_size, seed, epoch, batch_size)[position].tolist()
        plan = balanced_batches(source, self.window_size, batch_size)
        return plan[step % len(plan)].tolist()

    def answers(self, targets: Tensor) -> Tensor:
        """See `Task.answers`; in a text, its last two targets."""
        counted = targets != IGNORE
        last = counted.flip(1).cumsum(1).flip(1) <= 2 if self.loss == "text" else True
        return torch.where(counted & last, 0, -1)

    def _batch(
        self, rows: Sequence[np.ndarray], starts: Sequence[int], ops: Sequence[int], width: int, pad_id: int
    ) -> Batch:
        """Pads rows to `width`; the targets are the next tokens, from the answer at `starts` on or in the whole
        text."""
        tokens = np.full((len(rows), width), pad_id, np.int64)
        targets = np.full_like(tokens, IGNORE)
        mask = np.zeros_like(tokens, bool)
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            n, first = len(row) - 1, 1 if self.loss == "text" else start  # the end of sequence is never an input
            tokens[i, :n] = row[:-1]
            targets[i, first - 1 : n] = row[first:]
            mask[i, :n] = True
        return Batch(
            torch.from_numpy(tokens), torch.from_numpy(targets), torch.tensor(ops, device="cpu"), torch.from_numpy(mask)
        )

    def _draw(self, split: str, seed: int, step: int, batch_size: int) -> Batch:
        draws = Draws(stream(seed, split, step))
        # Balanced over steps in training; one slice a step elsewhere.
        turns = range(step * batch_size, (step + 1) * batch_size) if split == "train" else [step] * batch_size
        ops = [self.slices[turn % len(self.slices)] for turn in turns]
        problems = [draw_problem(draws, self.problem, self.vocabulary, op=op, split=split) for op in ops]
        rows = [np.asarray(problem.ids) for problem in problems]
        return self._batch(rows, [p.start for p in problems], ops, self.sequence_length, self.vocabulary.pad_id)

    def held_out_steps(self, split: str, batch_size: int, n_rows: int) -> int:
        if self.path is None:
            return super().held_out_steps(split, batch_size, n_rows)
        return len(balanced_batches(self._dataset.split(split), self.window_size, batch_size))

    def epoch_steps(self, batch_size: int) -> int | None:
        return None if self.path is None else epoch_steps(self._dataset.split("train"), self.window_size, batch_size)


@lru_cache(maxsize=8)
def buckets(split: Split, window_size: int) -> list[np.ndarray]:
    """Row numbers of a split, one array (n,) for each pair of first and last window with loss."""
    first, last = loss_windows(split.starts, split.lengths, window_size)
    pairs, bucket = np.unique(np.stack([first, last]), axis=1, return_inverse=True)
    return [np.flatnonzero(bucket == i) for i in range(pairs.shape[1])]


def epoch_steps(split: Split, window_size: int, batch_size: int) -> int:
    """Full batches in an epoch. Raises ValueError if there is none, or a batch cannot have so many rows."""
    check_batch_size(batch_size)
    sizes = [len(rows) for rows in buckets(split, window_size)]
    largest = f"the largest bucket of window_size {window_size}"
    require(max(sizes) >= batch_size, f"batch_size must be at most the {max(sizes)} rows of {largest}", batch_size)
    return sum(size // batch_size for size in sizes)


@lru_cache(maxsize=4)
def epoch_batches(split: Split, window_size: int, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """The batches of an epoch in their order, (steps, batch_size)."""
    rng = stream(seed, "train", epoch)
    batches = []
    for rows in buckets(split, window_size):
        full = len(rows) // batch_size * batch_size
        batches.append(rng.permutation(rows)[:full].reshape(-1, batch_size))
    return rng.permutation(np.concatenate(batches))


@lru_cache(maxsize=8)
def balanced_batches(split: Split, window_size: int, batch_size: int) -> list[np.ndarray]:
    """Row numbers (n,) of batches of at most `batch_size` that show each row once, the operation counts in turn; one
    that needs fewer batches than others gets as many by halving its largest. Raises ValueError if a batch cannot have
    so many rows."""
    check_batch_size(batch_size)
    by_op = []
    for op in np.unique(split.ops):
        own = [rows[split.ops[rows] == op] for rows in buckets(split, window_size)]
        by_op.append([rows[i : i + batch_size] for rows in own for i in range(0, len(rows), batch_size)])
    most = max(map(len, by_op))
    for batches in by_op:
        while len(batches) < most:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            rows = batches.pop(largest)
            batches += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return [batches[i] for i in range(most) for batches in by_op]
