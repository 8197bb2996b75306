"""A stream of tokens of any length, read through a small window: awake token by token, asleep on overflow."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from itertools import pairwise
from pathlib import Path
from threading import RLock
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from lmsleep.hub import check_integer
from lmsleep.memory import Eviction, FastWeights, check_eviction, check_n_passes
from lmsleep.model import HybridLM
from lmsleep.runtime.decoder import Decoder
from lmsleep.runtime.events import Narrator, OnSleep
from lmsleep.runtime.graphs import GraphedRun
from lmsleep.runtime.memory import Memory, regroup
from lmsleep.runtime.sampling import continued, sampler
from lmsleep.runtime.saved import Saved, load_memory, save_memory
from lmsleep.runtime.tokens import Mask, Rows, Tokens, as_rows, gathered

P = ParamSpec("P")
R = TypeVar("R")


def _one_thread(method: "Callable[Concatenate[Session, P], R]") -> "Callable[Concatenate[Session, P], R]":
    """Lets other threads wait until the session's memory and decoder are left alone again."""

    @wraps(method)
    def alone(self: "Session", *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return alone


class Session:
    """Reads an endless stream at constant memory: weights, S and one window are all it holds.

    A token is read by one ordinary pass. When the next token does not fit into the window, the model sleeps first:
    passes 2..N over the window it has read, then eviction. So a window that has just become full is still awake;
    `sleep()` puts it to sleep at once. In how many calls the tokens come makes no difference.

    Rows of a batch may differ in length: those at the same place of their window are read together, the others in turn.
    Threads may share a session: each call waits for the one before. To ask side by side, each thread forks it.

    Args:
        model: no gradient is kept.
        n_passes: N, the total number of passes over a window that overflows.
        eviction: `hard` or `sliding`.
        callbacks: called with a `SleepEvent` after every pass of a sleep.
        static: read single tokens, and sleep on full windows, in buffers of fixed size, on CUDA as one graph each.
            Building them takes a moment: it pays off for long streams.

    Raises:
        ValueError: if n_passes is below 1 or the eviction is unknown.
    """

    def __init__(
        self,
        model: HybridLM,
        n_passes: int = 1,
        eviction: Eviction = "hard",
        *,
        callbacks: Sequence[OnSleep] = (),
        static: bool = False,
    ) -> None:
        check_n_passes(n_passes)
        check_eviction(eviction)
        self.model, self.n_passes = model, n_passes
        self.eviction: Eviction = eviction
        self.callbacks, self.static = tuple(callbacks), static
        self._groups: list[Memory] = []
        self._run = GraphedRun(model.blocks) if static else None
        self._decoder: Decoder | None = None
        self._decoding = False  # the memory is in the decoder's buffers
        self._lock = RLock()

    @property
    def batch_size(self) -> int | None:
        """Rows of the batch; None before the first call of `feed`."""
        return sum(len(group.rows) for group in self._groups) or None

    @property
    @_one_thread
    def groups(self) -> list[Memory]:
        """The memory, by rows at the same place of their window."""
        if self._decoding:
            assert self._decoder is not None
            self._groups, self._decoding = [self._decoder.unload()], False
        return self._groups

    @property
    @_one_thread
    def fast_weights(self) -> FastWeights:
        """S of all rows; zeros before the first token."""
        if not self._groups:
            return self.model.init_fast_weights(1)
        order = torch.tensor([row for group in self.groups for row in group.rows]).argsort()
        layers = zip(*(group.S.states for group in self.groups), strict=True)
        return FastWeights(tuple(torch.cat(states)[order] for states in layers))

    @property
    def nbytes(self) -> int:
        """Bytes of the memory: S, attention cache, and what a sleep needs of the window."""
        return sum(group.nbytes for group in self.groups)

    @_one_thread
    def feed(self, tokens: Tokens, *, mask: Mask | None = None, last_only: bool = False) -> Tensor:
        """Reads tokens.

        Args:
            tokens: (B, n) integers; (n,) or one number if B is 1; or a list of B lists of any lengths. The first call
                sets B.
            mask: (B, n) bool, or zeros and ones, 0 for tokens that must leave no trace; (n,) if B is 1.
            last_only: return the logits of each row's last token alone, at constant memory for any n.

        Returns:
            Logits (B, n, V), or (B, V) with `last_only`; n is the longest length, NaN stands where a row has no token.

        Raises:
            ValueError: if a shape does not fit or a token is not in the vocabulary; the memory is then as it was.
        """
        return self._read(as_rows(tokens, mask, self.batch_size, self.model), last_only)

    @_one_thread
    @torch.no_grad()
    def sleep(self) -> None:
        """Sleeps on the windows read so far, full or not, and evicts them. An empty window is not slept on."""
        self._groups = regroup(self._asleep(group) if group.cache.fresh else group for group in self.groups)

    @_one_thread
    def forget(self) -> None:
        """Sets S to zero and keeps what attention sees: what is then known does not come from the fast weights."""
        zeros = (self.model.init_fast_weights(len(group.rows)) for group in self.groups)
        self._groups = [replace(group, S=zero, before=zero) for group, zero in zip(self.groups, zeros, strict=True)]

    @_one_thread
    def generate(
        self,
        prompt: Tokens,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """Reads a prompt, then draws tokens one by one and reads them too, the last included.

        Args:
            prompt: as in `feed`, at least one token a row.
            temperature: 0 takes the most likely token.
            top_p: draw from the smallest set of tokens whose probabilities sum to top_p.
            seed: of the draws; None takes torch's global generator.
            stop: ends a row, and fills the rest of its output.

        Returns:
            New tokens (B, n), n <= max_new_tokens.

        Raises:
            ValueError: if an argument is out of range; the memory is then as it was.
        """
        check_integer("max_new_tokens", max_new_tokens, 1, 2**63 - 1)
        if stop is not None:
            check_integer("stop", stop, 0, self.model.embedding.num_embeddings - 1)
        draw = sampler(temperature, top_p, seed, self.model.embedding.weight.device)
        rows = as_rows(prompt, None, self.batch_size, self.model)
        if not min(rows.lengths):
            raise ValueError("prompt must have at least one token in every row")
        return continued(self._read, self._read(rows, last_only=True), draw, max_new_tokens, stop)

    @contextmanager
    def fork(self, copies: int = 1) -> Iterator["Session"]:
        """A session that goes on from this memory while this one stays as it is: ask many questions about one text.

        Args:
            copies: of every row, side by side in the batch, so that several questions can be asked at once.

        Raises:
            ValueError: if copies is below 1.
        """
        check_integer("copies", copies, 1, 2**31 - 1)
        branch = Session(self.model, self.n_passes, self.eviction, callbacks=self.callbacks, static=self.static)
        branch._run = self._run
        with self._lock:
            branch._groups = [group.repeat(copies) if copies > 1 else group for group in self.groups]
            # Lent, since building one takes long; it holds nothing of this session now.
            branch._decoder, self._decoder = self._decoder, None
        try:
            yield branch
        finally:
            branch._groups = branch.groups
            with self._lock:
                self._decoder, branch._decoder = self._decoder or branch._decoder, None

    def save(self, path: str | Path) -> None:
        """Writes the memory to one file, whole or not at all; `load` goes on from it exactly.

        Raises:
            ValueError: if the folder of `path` does not exist.
        """
        save_memory(path, self.model, Saved(self.n_passes, self.eviction, self.groups))

    @classmethod
    def load(
        cls, path: str | Path, model: HybridLM, *, callbacks: Sequence[OnSleep] = (), static: bool = False
    ) -> "Session":
        """A session that goes on from a saved memory, with its N and eviction.

        Raises:
            ValueError: if the file cannot be read, is no saved memory, or was written by another model.
        """
        saved = load_memory(path, model)
        session = cls(model, saved.n_passes, saved.eviction, callbacks=callbacks, static=static)
        session._groups = saved.groups
        return session

    @torch.no_grad()
    def _read(self, rows: Rows, last_only: bool) -> Tensor:
        if not self._groups:
            self._groups = [Memory.start(self.model, len(rows.lengths))]
        if self.static and rows.even and rows.tokens.shape[1] == 1 and rows.mask is None and len(self._groups) == 1:
            logits = self._decode(rows.tokens)
            return logits[:, -1] if last_only else logits
        groups, pieces = [], []
        for group in self.groups:
            for start, stop in pairwise(sorted({0, *(rows.lengths[row] for row in group.rows)})):
                ended, group = group.split([rows.lengths[row] < stop for row in group.rows])
                assert group is not None, "some row has `stop` tokens"
                groups += [ended] if ended else []
                group, logits = self._advance(group, rows.part(group.rows, start, stop), last_only)
                pieces.append((group.rows, start, logits))
            groups.append(group)
        self._groups = regroup(groups)
        return gathered(pieces, rows, last_only, self.model.head.weight)

    def _advance(self, memory: Memory, rows: Rows, last_only: bool) -> tuple[Memory, Tensor]:
        """Reads tokens (b, n) of equally long rows by windows; logits (b, n, V), or (b, 1, V) with `last_only`."""
        logits, start, n = [], 0, rows.tokens.shape[1]
        while start < n:
            if memory.cache.full:
                memory = self._asleep(memory)
            stop = min(n, start + memory.cache.room)
            mask = None if rows.mask is None else rows.mask[:, start:stop]
            h, memory = memory.read(self.model, rows.tokens[:, start:stop], mask)
            start = stop
            logits = [self.model.logits(h[:, -1:])] if last_only else [*logits, self.model.logits(h)]
        return memory, logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)

    def _asleep(self, memory: Memory) -> Memory:
        """The memory after a sleep on its window and the eviction."""
        narrator = Narrator(self.callbacks, memory.rows, memory.cache.fresh, self.n_passes)
        # Parts of windows and of batches come in many forms, and each would be captured.
        run = self._run if memory.cache.full and len(memory.rows) == self.batch_size else None
        memory = memory.sleep(self.model, narrator.on_overflow, self.eviction, run)
        narrator.tell()
        return memory

    def _decode(self, tokens: Tensor) -> Tensor:
        """Reads one token a row, (B, 1), in the decoder's buffers; logits (B, 1, V)."""
        if not (self._decoding and self._decoder is not None and not self._decoder.full):
            memory = self.groups[0]
            if memory.cache.full:
                memory = self._asleep(memory)
            if self._decoder is None or self._decoder.batch_size != len(tokens):
                self._decoder = Decoder(self.model, len(tokens))
            self._decoder.load(memory)
            # The buffers hold the memory now; what stays here says which rows they are.
            self._groups, self._decoding = [self._decoder.began], True
        return self._decoder.step(tokens)
