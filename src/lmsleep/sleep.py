"""Algorithm 1 of arXiv 2605.26099 on one page: wake, overflow, sleep, eviction.

The algorithm, for tokens x, loss mask m, windows of L tokens and N passes; the comments below cite its lines:

     1  S <- 0 for every fast-weight layer
     2  split x, m into windows of at most L
     3  for each window c with mask m_c:
     4      h <- Embed(c)
     5      if m_c is all zero:
     6          repeat N times: h, S <- Blocks(h, S)
     7      else:
     8          h, S <- Blocks(h, S)
     9          loss <- MaskedCE(OutProj(h), c, m_c)
    10      drop h and the attention cache, keep S
    11  back-propagate through everything

A causal stack gives the same h and S whether a window is read token by token or in one go, so the first pass of line 6
*is* the wake pass, the same as line 8, and a sleep adds passes 2..N.

Two options go beyond it. `wake_passes` (default 1) repeats line 8 in every window, each time from the S before the
window, as a looped language model does. `after_loss` (default off) lets a window with loss sleep between lines 9 and
10; otherwise nothing sleeps where every window has loss, as in plain language modelling.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.checks import require
from lmsleep.memory import IGNORE, Eviction, FastWeights, SleepSettings, check_batch, check_n_passes
from lmsleep.model import HybridLM, RunFn, SharedWeights, Wake

Pass = Callable[[Tensor, FastWeights], tuple[Tensor, FastWeights]]
OnOverflow = Callable[[Pass, Tensor, FastWeights], tuple[Tensor, FastWeights]]


def sleep(blocks: Pass, h: Tensor, S: FastWeights, n_passes: int) -> tuple[Tensor, FastWeights]:
    """Passes 2..N over a window that already had its wake pass.

    Args:
        blocks: one pass over the window, (B, L, D), S -> (B, L, D), S.
        h, S: what the wake pass left.
        n_passes: N, the total number of passes, the wake pass included.

    Raises:
        ValueError: if n_passes is below 1.
    """
    check_n_passes(n_passes)
    for _ in range(n_passes - 1):
        h, S = blocks(h, S)  # line 6: both h and S go on
    return h, S


def read_windows(
    model: HybridLM,
    tokens: Tensor,
    targets: Tensor | None = None,
    n_passes: int = 1,
    *,
    eviction: Eviction = "hard",
    mask: Tensor | None = None,
    on_overflow: OnOverflow | None = None,
    loss_windows: Sequence[bool] | None = None,
    after_loss: bool = False,
    wake_passes: int = 1,
    scored_only: bool = False,
    shared: SharedWeights | None = None,
) -> "Reading":
    """Algorithm 1 over whole sequences (B, T); back-propagation goes through every pass of every window.

    Args:
        targets: (B, T), what to say *at* each position (no shift follows), `IGNORE` where there is no loss; which
            windows sleep follows from them, see `Windows`.
        n_passes: N.
        mask: (B, T) bool, False for tokens that must leave no trace.
        on_overflow: called at an overflow in place of `sleep(..., n_passes)`.
        loss_windows: which windows carry loss, if that is known before the targets reach the device.
        after_loss: a window with loss sleeps too, once its loss is taken; see `Windows`.
        wake_passes: passes over every window before its outputs are used, see `repeat_wake_pass`.
        scored_only: at N = 1, leaves out what neither the loss nor S depends on, the last MLP of windows without loss;
            `Reading.hidden` then has the windows with loss alone.
        shared: joins the weights of a training step on a GPU, see `SharedWeights`.

    Raises:
        ValueError: if n_passes or wake_passes is below 1, n_passes is given beside `on_overflow`, or eviction or a
            shape or a dtype does not fit, or, on a CPU, a token or a target is not in the vocabulary.
    """
    SleepSettings(n_passes, eviction, after_loss, wake_passes)  # checks them
    require(on_overflow is None or n_passes == 1, "n_passes must be left out beside on_overflow", n_passes)
    check_batch(tokens, targets, mask, model.embedding.num_embeddings)
    windows = checked_windows(model.window_size, tokens, targets, loss_windows, after_loss)
    goes_on = on_overflow is not None or n_passes > 1 or wake_passes > 1  # h is where further passes start
    answer = on_overflow or partial(sleep, n_passes=n_passes)
    warn_if_idle(model, n_passes, windows if windows.length >= windows.size else None)
    S = model.init_fast_weights(len(tokens))  # line 1
    cache, slides = model.init_cache(), eviction == "sliding"
    hidden, scored = [], []
    for span, carries_loss, sleeps in windows:  # lines 2-3
        seen = None if mask is None else mask[:, span]
        need_h = carries_loss or goes_on or not scored_only
        # Lines 4 and 8, and pass 1 of line 6:
        wake = model.wake(tokens[:, span], S, cache, seen, use_cache=slides, need_h=need_h, shared=shared)
        wake = repeat_wake_pass(model, wake, wake_passes)
        S, cache = wake.S, wake.cache
        hidden.append(wake.h)
        if targets is not None and carries_loss:  # line 7
            scored.append((model.logits(wake.h), targets[:, span]))  # line 9
        if sleeps:  # line 5
            S = sleep_window(model, wake, answer)  # line 6, passes 2..N
        if cache.full:
            cache = cache.evict(eviction)  # line 10
    return Reading.of(model, windows, hidden, scored, S)


def repeat_wake_pass(model: HybridLM, wake: Wake, wake_passes: int) -> Wake:
    """The wake pass with `wake_passes` passes of the looped blocks and one of the coda: a looped language model.

    Unlike in a sleep, every pass starts from the S before the window: a later one would know the tokens that are to be
    predicted. Cached tokens are seen as their first pass left them, as in a sleep.
    """
    if wake_passes == 1:
        return wake

    def again(h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        return model.loop_pass(h, model.rewind(S, wake, *model.config.loop_range), wake)

    core, S = sleep(again, wake.core, wake.S, wake_passes)
    h, S = model.coda_pass(core, S, wake)
    return replace(wake, h=h, core=core, S=S)


def sleep_window(model: HybridLM, wake: Wake, on_overflow: OnOverflow, run: RunFn | None = None) -> FastWeights:
    """The fast weights after a sleep on the window that `wake` has read: the looped blocks repeat, then the coda reads
    the new h once, from the S it had before the window. `run` takes the place of `Blocks.run`."""
    made = 0

    def one_more(h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        nonlocal made
        made += 1
        return model.loop_pass(h, S, wake, run)

    h, S = on_overflow(one_more, wake.core, wake.S)
    return model.coda_pass(h, S, wake, run)[1] if made else S


def record_changes(blocks: Pass, changes: list[Tensor]) -> Pass:
    """The same pass, which also appends `FastWeights.change` of S, (n_layers,), to `changes`."""

    def one_pass(h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        h, after = blocks(h, S)
        changes.append(after.change(S))
        return h, after

    return one_pass


@dataclass(frozen=True)
class Windows:
    """The windows of a sequence, L tokens each from its start; the last may be shorter.

    The rule of Algorithm 1, line 5: a window sleeps if it is full and carries no loss in any row.

    Args:
        length: T. size: L.
        carry_loss: for each window whether it carries loss.
        after_loss: a full window with loss sleeps too, if tokens follow it.
    """

    length: int
    size: int
    carry_loss: tuple[bool, ...]
    after_loss: bool = False

    @classmethod
    def of(cls, targets: Tensor, size: int, after_loss: bool = False) -> "Windows":
        """The windows of targets (B, T)."""
        # One transfer for the whole sequence: a loop over windows must not wait for the device.
        scored = (targets != IGNORE).any(dim=0).tolist()
        carry_loss = tuple(any(scored[i : i + size]) for i in range(0, len(scored), size))
        return cls(len(scored), size, carry_loss, after_loss)

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


def warn_if_idle(
    model: HybridLM, n_passes: int, windows: Windows | None = None, warn: Callable[[str], None] = warnings.warn
) -> None:
    """Warns where N > 1 gives what N = 1 gives: without fast weights, or where no window of a batch sleeps."""
    if n_passes > 1 and not model.blocks.state_index:
        warn(f"n_passes is {n_passes}, but the pattern {model.config.pattern!r} has no fast weights to sleep with")
    elif n_passes > 1 and windows is not None and not windows.n_sleeps:
        told = "none of them full" if windows.length < windows.size else "loss in every full one"
        which = f"no window of the batch ({windows.length} tokens, windows of {windows.size}, {told})"
        warn(idle_sentence(n_passes, which))


def idle_sentence(n_passes: int, which: str) -> str:
    """What a warning says where `which` sleeps."""
    return (
        f"n_passes is {n_passes}, but {which} sleeps, so that it trains as with n_passes=1: a window sleeps where it "
        f"is full and carries no loss (targets of {IGNORE} alone); --sleep.after_loss=true, in Python after_loss, lets "
        "those with loss sleep too"
    )


def checked_windows(
    size: int,
    tokens: Tensor,
    targets: Tensor | None,
    loss_windows: Sequence[bool] | None,
    after_loss: bool,
) -> Windows:
    """The windows of tokens (B, T), `size` tokens each; the other arguments as in `read_windows`. Raises ValueError if
    the number of `loss_windows` does not fit."""
    if loss_windows is None and targets is not None:
        return Windows.of(targets, size, after_loss)
    length = tokens.shape[1]
    count = -(-length // size)
    carry_loss = (False,) * count if loss_windows is None else tuple(loss_windows)
    require(len(carry_loss) == count, f"loss_windows must say of {count} windows if they carry loss", len(carry_loss))
    return Windows(length, size, carry_loss, after_loss)


@dataclass(frozen=True)
class Reading:
    """The result of `read_windows`: `windows`, wake-pass outputs `hidden` (B, T, D), final S, mean loss over all
    targets, and logits (B, P, V) and targets (B, P) of the windows with loss."""

    model: HybridLM
    windows: Windows
    hidden: Tensor
    fast_weights: FastWeights
    loss: Tensor | None
    scored_logits: Tensor | None
    scored_targets: Tensor | None

    @property
    def logits(self) -> Tensor:
        """(B, T, V), computed on demand."""
        return self.model.logits(self.hidden)

    @classmethod
    def of(cls, model: HybridLM, windows: Windows, hidden: list[Tensor], scored: list, S: FastWeights) -> "Reading":
        """Joins the outputs of all windows, and (logits, targets) of those with loss. Raises ValueError if a mixer has
        left another kind of fast weights than it started from."""
        for index, (state, start) in enumerate(zip(S.states, model.init_fast_weights(1).states, strict=True)):
            left = None if state is None else (tuple(state.shape[1:]), state.dtype)
            said = f"the state of fast-weight layer {index} must be {start.dtype} of shape {tuple(start.shape[1:])}"
            require(left == (tuple(start.shape[1:]), start.dtype), f"{said} for each row", left)
        whole = torch.cat(hidden, dim=1) if len(hidden) > 1 else hidden[0]
        if not scored:
            return cls(model, windows, whole, S, None, None, None)
        logits, targets = (torch.cat(parts, dim=1) for parts in zip(*scored, strict=True))
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(wide.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        return cls(model, windows, whole, S, loss, logits, targets)
