"""The core of a session: reads tokens by windows or one by one, sleeps on overflow, and is copied."""

import warnings
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import wraps
from itertools import pairwise
from threading import RLock
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import Tensor

from lmsleep.checks import check_integer, require, typed
from lmsleep.memory import FastWeights
from lmsleep.model import HybridLM, check_model
from lmsleep.model.trained import sleeps_of
from lmsleep.runtime.decoder import Decoder
from lmsleep.runtime.events import OnSleep, reported_sleep
from lmsleep.runtime.graphs import GraphedBlocks
from lmsleep.runtime.memory import Memory, indices, regroup
from lmsleep.runtime.tokens import TokenRows, gather_logits
from lmsleep.sleep import OnOverflow
from lmsleep.windows import Eviction, policy_name

P = ParamSpec("P")
R = TypeVar("R")
Reader = TypeVar("Reader", bound="StreamReader")


def locked(method: Callable[Concatenate[Reader, P], R]) -> Callable[Concatenate[Reader, P], R]:
    """Makes a method hold the session's lock."""

    @wraps(method)
    def locking(self: Reader, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return locking


class StreamReader:
    """A model, the memory of the rows read so far, and the decoder of single tokens. See `Session`."""

    def __init__(
        self,
        model: HybridLM,
        n_passes: int | None,
        eviction: Eviction | None,
        callbacks: Sequence[OnSleep],
        static: bool,
        fast_weights: FastWeights | None,
        on_overflow: OnOverflow | None,
    ) -> None:
        check_model(model)
        for name, module in model.named_modules():
            if module.training and isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p:
                drops = f"{name} draws what it drops out, since the model is in training mode"
                warnings.warn(f"{drops}: call model.eval() before it is read with", stacklevel=3)
                break
        settings = sleeps_of(model.trained, n_passes, eviction, on_overflow)
        settings.warn_if_idle(len(model.blocks.state_index))
        self.model, self.n_passes, self.on_overflow = model, settings.n_passes, on_overflow
        self.eviction: Eviction = settings.eviction
        self.callbacks = typed(tuple[OnSleep, ...], callbacks, "callbacks")
        self.static = typed(bool, static, "static")
        self._first = [] if fast_weights is None else Memory.start_from(model, fast_weights)
        self._groups: list[Memory] = self._first
        self._run = GraphedBlocks(model.blocks) if self.static else None
        self._decoder: Decoder | None = None
        self._decoding = False  # whether the decoder's buffers hold the memory
        self._lender: StreamReader | None = None  # of the decoder, to a fork
        self._lock = RLock()

    @property
    def sleeps(self) -> str:
        """How it sleeps: N, or what does so in place of passes 2..N, and the eviction."""
        return f"{policy_name(self.on_overflow) or f'N = {self.n_passes}'}, {self.eviction} eviction"

    def __repr__(self) -> str:
        L = self.model.window_size
        fresh = sorted({group.cache.fresh for group in self.groups})
        if not fresh:
            return f"<{type(self).__name__}: {self.sleeps}; nothing read, windows of {L} tokens>"
        tokens = f"{fresh[0]} to {fresh[-1]}" if len(fresh) > 1 else fresh[0]
        rows = f"{self.batch_size} rows, " if self.batch_size != 1 else ""
        memory = f"{rows}{tokens} of {L} tokens in the window, {self.nbytes:,} bytes"
        return f"<{type(self).__name__}: {self.sleeps}; {memory}>"

    @property
    def batch_size(self) -> int | None:
        """Rows of the batch; None before the first call of `feed`, unless there were fast weights to begin from."""
        return sum(len(group.rows) for group in self._groups) or None

    @property
    @locked
    def groups(self) -> list[Memory]:
        """The memory, grouped by rows at the same place in their windows."""
        if self._decoding:
            assert self._decoder is not None
            self._groups, self._decoding = [self._decoder.unload()], False
        return self._groups

    @property
    @locked
    def fast_weights(self) -> FastWeights:
        """S of all rows; zeros before the first token."""
        if not self._groups:
            return self.model.init_fast_weights(1)
        order = indices([row for group in self.groups for row in group.rows]).argsort()
        layers = zip(*(group.S.states for group in self.groups), strict=True)
        return FastWeights(tuple(torch.cat(states)[order] for states in layers))

    @property
    def nbytes(self) -> int:
        """Bytes of the memory: S, attention cache, and outputs over the current window."""
        return sum(group.nbytes for group in self.groups)

    @locked
    @torch.inference_mode(False)  # or no buffer could be written to outside of the caller's
    @torch.no_grad()
    def sleep(self) -> None:
        """Sleeps on the current windows, full or not, and evicts them. Empty windows do not sleep."""
        self._groups = regroup(self._asleep(group) if group.cache.fresh else group for group in self.groups)

    @locked
    def forget(self) -> None:
        """Sets S to zero and keeps the window, which the next sleep writes into S again; see `reset`."""
        zeros = (self.model.init_fast_weights(len(group.rows)) for group in self.groups)
        self._groups = [replace(group, S=zero, before=zero) for group, zero in zip(self.groups, zeros, strict=True)]

    @locked
    def reset(self) -> None:
        """Goes back to before the first token: S is zero and B open, or both as of the `fast_weights` that were given;
        the window is empty. Templates stay."""
        self._groups, self._decoding = self._first, False

    @locked
    def reorder(self, rows: Sequence[int]) -> None:
        """Replaces the memory of row i by that of row `rows[i]`. Raises ValueError if there is no such row."""
        B = self.batch_size or 0
        require(rows and 0 <= min(rows) <= max(rows) < B, f"rows must be some of the {B} that were read", rows)
        chosen = []
        for group in self.groups:
            places = [(new, group.rows.index(old)) for new, old in enumerate(rows) if old in group.rows]
            if places:
                new, old = zip(*places, strict=True)
                chosen.append(replace(group.select(indices(old)), rows=new))
        self._groups = chosen

    @locked
    def repeat(self, copies: int) -> None:
        """Makes `copies` of every row, adjacent in the batch. Raises ValueError if copies is below 1."""
        check_integer("copies", copies, 1, 2**31 - 1)
        if copies > 1 and self.batch_size:
            self.reorder([row for row in range(self.batch_size) for _ in range(copies)])

    @locked
    def __deepcopy__(self, memo: Any) -> Self:
        """A session of its own that goes on from this memory; the model is the same."""
        twin = copy(self)
        twin._groups, twin._lock = self.groups, RLock()
        twin._decoder, twin._decoding, twin._lender = None, False, None
        return twin

    @locked
    def fork(self, copies: int = 1) -> Self:
        """A session that starts from a copy of this memory, to ask many questions about one text. It has `copies` of
        every row, adjacent in the batch. Within `with session.fork() as branch:` it borrows the buffers of a static
        session, which take long to make. Raises ValueError if copies is below 1."""
        branch = deepcopy(self)
        branch.repeat(copies)
        branch._lender = self
        return branch

    def __enter__(self) -> Self:
        if (lender := self._lender) is not None:
            self._groups = self.groups
            with lender._lock:
                lender._groups = lender.groups
                self._decoder, lender._decoder = lender._decoder, None
        return self

    def __exit__(self, *_: object) -> None:
        self._groups = self.groups
        if (lender := self._lender) is not None:
            with lender._lock:
                lender._decoder, self._decoder = lender._decoder or self._decoder, None

    @locked
    @torch.inference_mode(False)  # or no buffer could be written to outside of the caller's
    @torch.no_grad()
    def _read(self, rows: TokenRows, last_only: bool) -> Tensor:
        if not self._groups:
            self._groups = [Memory.start(self.model, len(rows.lengths))]
        one_token = rows.same_length and rows.tokens.shape[1] == 1 and rows.mask is None
        if self.static and one_token and len(self._groups) == 1:
            logits = self._decode(rows.tokens)
            return logits[:, -1] if last_only else logits
        groups, pieces = [], []
        ends = rows.ends if last_only else rows.lengths
        for group in self.groups:
            # In stretches within which no row ends, so that all rows of a group read as many tokens.
            for start, stop in pairwise(sorted({0, *(end[row] for row in group.rows for end in (ends, rows.lengths))})):
                ended, group = group.split([rows.lengths[row] < stop for row in group.rows])
                assert group is not None, "some row has `stop` tokens"
                groups += [ended] if ended else []
                group, logits = self._advance(group, rows.select(group.rows, start, stop), last_only)
                pieces.append((group.rows, start, logits))
            groups.append(group)
        self._groups = regroup(groups)
        return gather_logits(pieces, rows, last_only, self.model.head.weight)

    def _advance(self, memory: Memory, rows: TokenRows, last_only: bool) -> tuple[Memory, Tensor]:
        """Reads tokens (b, n) of rows of equal length; logits (b, n, V), or (b, 1, V) with `last_only`."""
        n = rows.tokens.shape[1]
        logits, start = [], 0
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
        """The memory after a sleep and the eviction."""
        # Partial windows and batches have many shapes, each of which would be captured.
        run = self._run if memory.cache.full and len(memory.rows) == self.batch_size else None
        told = (self.callbacks, memory.rows, memory.cache.fresh, self.n_passes, self.on_overflow)
        with reported_sleep(*told) as on_overflow:
            return memory.sleep(self.model, on_overflow, self.eviction, run)

    def _decode(self, tokens: Tensor) -> Tensor:
        """Reads tokens (B, 1) with the decoder; logits (B, 1, V)."""
        decoder = self._decoder
        fits = decoder is not None and decoder.fits(len(tokens))
        if decoder is None or not (self._decoding and fits and not decoder.full):
            memory = self.groups[0]
            if memory.cache.full:
                memory = self._asleep(memory)
            if decoder is None or not fits:
                self._decoder = decoder = Decoder(self.model, len(tokens))
            decoder.load(memory)
            # The buffers hold the memory now; this one only has the rows.
            self._groups, self._decoding = [decoder.began], True
        return decoder.step(tokens)
