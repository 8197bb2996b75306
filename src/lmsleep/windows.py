"""The windows of a sequence: which of them sleep and how, and the checks of what is read."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.checks import check_integer, check_types, require, typed

IGNORE = -100  # a target without loss
Eviction = Literal["hard", "sliding"]


@dataclass(frozen=True)
class Windows:
    """The windows of a sequence, L tokens each from its start; the last may be shorter.

    Algorithm 1, line 5: a window sleeps if it carries no loss. Ours are two readings of it: no loss in any row of the
    batch; and a short last window never sleeps, since it does not overflow.

    Args:
        length: T. size: L.
        carry_loss: for each window whether it carries loss.
        after_loss: a full window with loss sleeps too, if tokens follow it.

    Raises:
        ValueError: if `carry_loss` is not of as many windows as there are.
    """

    length: int
    size: int
    carry_loss: tuple[bool, ...]
    after_loss: bool = False

    def __post_init__(self) -> None:
        count = -(-self.length // self.size)
        rule = f"loss_windows must say of {count} windows if they carry loss"
        require(len(self.carry_loss) == count, rule, len(self.carry_loss))

    @classmethod
    def of(cls, targets: Tensor, size: int, after_loss: bool = False) -> "Windows":
        """The windows of targets (B, T)."""
        # One transfer for the whole sequence: a loop over windows must not wait for the device.
        carry_loss = by_window(targets != IGNORE, size).any(dim=0).tolist()
        return cls(targets.shape[1], size, tuple(carry_loss), after_loss)

    @classmethod
    def of_batch(
        cls,
        tokens: Tensor,
        targets: Tensor | None,
        size: int,
        after_loss: bool,
        loss_windows: Sequence[bool] | None = None,
    ) -> "Windows":
        """The windows of tokens (B, T), which carry loss by `loss_windows` if given, else by the targets; with neither,
        none does."""
        if loss_windows is None and targets is not None:
            return cls.of(targets, size, after_loss)
        length = tokens.shape[1]
        silent = (False,) * -(-length // size)
        carry_loss = silent if loss_windows is None else typed(tuple[bool, ...], loss_windows, "loss_windows")
        return cls(length, size, carry_loss, after_loss)

    def __iter__(self) -> Iterator[tuple[slice, bool, bool]]:
        """For each window: its slice, whether it carries loss, whether it sleeps."""
        for index, carries_loss in enumerate(self.carry_loss):
            span = slice(index * self.size, (index + 1) * self.size)
            full = span.stop <= self.length
            followed = span.stop < self.length
            yield span, carries_loss, (self.after_loss and followed if carries_loss else full)

    @property
    def n_sleeps(self) -> int:
        """How many windows sleep."""
        return sum(sleeps for _, _, sleeps in self)

    def token_passes(self, n_passes: int, wake_passes: int = 1) -> int:
        """Tokens of a row, each counted once for every pass of the looped blocks over it."""
        return self.length * wake_passes + (n_passes - 1) * self.size * self.n_sleeps


def by_window(flags: Tensor, size: int) -> Tensor:
    """Whether a flag is set in each window of each row: (B, T) -> (B, windows) bool; the last may be shorter."""
    size = min(size, flags.shape[1])
    return F.pad(flags, (0, -flags.shape[1] % size)).unflatten(1, (-1, size)).any(dim=-1)


class IdleWarning(UserWarning, ValueError):
    """N > 1, and nothing sleeps. Where such a warning is an error, it is that of a bad value."""


@dataclass(frozen=True)
class SleepSettings:
    """How a model reads and sleeps; by default it is the plain hybrid, which never sleeps.

    Args:
        n_passes: N, the total number of passes over a window that overflows; the wake pass is the first.
        eviction: `hard` empties the cache after a sleep, `sliding` keeps the newest L - 1 tokens.
        after_loss: a window with loss sleeps too, once its loss is taken, if tokens follow it.
        wake_passes: passes over every window before its outputs are used; a sleep adds N - 1.
        on_overflow: the name of what sleeps in place of passes 2..N; None: Algorithm 1.

    Raises:
        ValueError: if a number of passes is out of range or given beside `on_overflow`, or the eviction is unknown.
    """

    n_passes: int = 1
    eviction: Eviction = "hard"
    after_loss: bool = False
    wake_passes: int = 1
    on_overflow: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_n_passes(self.n_passes)
        check_n_passes(self.wake_passes, "wake_passes")
        alone = self.on_overflow is None or self.n_passes == 1
        require(alone, "n_passes must be left out beside on_overflow", self.n_passes)

    @property
    def sleeps(self) -> bool:
        """Whether a window that overflows is read again."""
        return self.n_passes > 1 or self.on_overflow is not None

    def warn_if_idle(
        self, fast_layers: int, windows: Windows | None = None, warn: Callable[[IdleWarning], None] = warnings.warn
    ) -> None:
        """Warns where a sleep changes nothing: without fast-weight layers, or where no window of a batch sleeps."""
        if self.sleeps and not fast_layers:
            warn(IdleWarning(f"{self._asked}, but the model has no fast weights to sleep with"))
        elif self.sleeps and windows is not None and not windows.n_sleeps:
            reason = "none of them full" if windows.length < windows.size else "loss in every full one"
            which = f"no window of the batch ({windows.length} tokens, windows of {windows.size}, {reason})"
            warn(IdleWarning(self.idle(which, several=windows.length > windows.size)))

    def idle(self, which: str, several: bool = True) -> str:
        """What a warning says where `which` sleeps; `several`: rows have more than one window."""
        remedy = "--sleep.after_loss=true, in Python after_loss, lets those with loss sleep too"
        if self.after_loss or not several:
            remedy = "rows have several windows with a smaller window_size or, of some tasks, a larger n_windows"
        followed = " or is followed by others" if self.after_loss else ""
        return (
            f"{self._asked}, but {which} sleeps, so that it trains as with n_passes=1: a window sleeps where it is "
            f"full and carries no loss (targets of {IGNORE} alone){followed}; {remedy}"
        )

    @property
    def _asked(self) -> str:
        return f"n_passes is {self.n_passes}" if self.on_overflow is None else f"on_overflow is {self.on_overflow}"


def check_n_passes(n_passes: int, name: str = "n_passes") -> None:
    """Raises ValueError unless `n_passes` is an integer from 1 to 10,000."""
    check_integer(name, n_passes, 1, 10_000, " (the wake pass counts)")


def check_batch(tokens: Tensor, targets: Tensor | None, mask: Tensor | None, vocab_size: int) -> None:
    """Raises ValueError as `check_shapes`, or if tokens or targets are not in the vocabulary. The last is looked at on
    a CPU alone: elsewhere a reading would wait for the device."""
    check_shapes(tokens, targets, mask)
    for name, given in (("tokens", tokens), ("targets", targets)):
        if given is not None and given.device.type == "cpu":
            check_tokens(name, given, vocab_size)


def check_shapes(tokens: Tensor, targets: Tensor | None = None, mask: Tensor | None = None) -> None:
    """Raises ValueError if tokens, targets or mask are not of one shape (B, T), or of another dtype."""
    require(isinstance(tokens, Tensor), "tokens must be a tensor", type(tokens).__name__)
    shape = tuple(tokens.shape)
    require(len(shape) == 2 and all(shape), "tokens must be (B, T) with at least one row and one token", shape)
    for name, given in (("tokens", tokens), ("targets", targets), ("mask", mask)):
        if given is None:
            continue
        require(isinstance(given, Tensor), f"{name} must be a tensor", type(given).__name__)
        require(given.shape == shape, f"{name} must have the shape of tokens {shape}", tuple(given.shape))
        kinds = (torch.bool,) if name == "mask" else (torch.int64, torch.int32) if name == "tokens" else (torch.int64,)
        rule = "bool" if name == "mask" else "integers (torch.int64)"
        require(given.dtype in kinds, f"{name} must be {rule}", given.dtype)


def check_tokens(name: str, tokens: Tensor, vocab_size: int) -> None:
    """Raises ValueError if tokens (B, n) are outside of the vocabulary; `targets` may be `IGNORE`."""
    outside = (tokens < 0) | (tokens >= vocab_size)
    outside = outside & (tokens != IGNORE) if name == "targets" else outside
    if outside.any():
        row, place = outside.nonzero()[0].tolist()
        got = f"{tokens[row, place]} (row {row}, token {place})"
        raise ValueError(f"{name} must lie in the vocabulary 0..{vocab_size - 1}, got {got}")


def policy_name(on_overflow: object) -> str | None:
    """What sleeps in place of passes 2..N, by its import path and, of a dataclass, its fields; None for None. Raises
    ValueError if it cannot be called."""
    if on_overflow is None:
        return None
    typed(Callable, on_overflow, "on_overflow")
    if isinstance(on_overflow, partial):
        return f"{policy_name(on_overflow.func)}, {on_overflow.args}, {on_overflow.keywords}"
    if is_dataclass(on_overflow):
        return f"{type(on_overflow).__module__}.{on_overflow!r}"
    named = on_overflow if hasattr(on_overflow, "__qualname__") else type(on_overflow)
    return f"{named.__module__}.{named.__qualname__}"  # pyright: ignore[reportAttributeAccessIssue]
