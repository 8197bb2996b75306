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

This is it as printed, but that a last window of fewer than L tokens never sleeps: it does not overflow. Of a batch,
which windows carry loss is asked of all rows together.

Two options go beyond it. `wake_passes` (default 1) repeats line 8 in every window, each time from the S before the
window, as a looped language model does. `after_loss` (default off) lets a window with loss sleep between lines 9 and
10; otherwise nothing sleeps where every window has loss, as in plain language modelling.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.memory import FastWeights, check_fast_weights
from lmsleep.model import HybridLM, SharedWeights, Wake, check_model
from lmsleep.windows import IGNORE, Eviction, SleepSettings, Windows, check_batch, check_n_passes, policy_name

Pass = Callable[[Tensor, FastWeights], tuple[Tensor, FastWeights]]


@dataclass(eq=False)
class WindowPass:
    """One more pass of the looped blocks over a window that `wake` has read, h, S -> h, S: the `blocks` of a sleep.

    Args:
        number: of the window in its sequence, from 0; None in a stream.
        changes: `FastWeights.change` of every pass, (n_layers,), is appended to it; None: it is not computed.
        count: passes so far.
    """

    model: HybridLM
    wake: Wake
    number: int | None = None
    changes: list[Tensor] | None = None
    count: int = 0

    def __call__(self, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        h, after = self.model.sleep_pass(h, S, self.wake)
        self.count += 1
        if self.changes is not None:
            self.changes.append(after.change(S))
        return h, after


OnOverflow = Callable[[WindowPass, Tensor, FastWeights], tuple[Tensor, FastWeights]]


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
    fast_weights: FastWeights | None = None,
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
        targets: (B, T), what to say *at* each position (no shift follows), `IGNORE` where there is no loss. A window
            with a target in any row stays awake in all rows, see `Windows`.
        n_passes: N; that of a loaded model's training is in `model.trained`.
        fast_weights: S before the first window, as of `HybridLM.init_fast_weights`, which gradients reach; None: zeros.
            The first window begins empty: a reading goes on from that of another as in one go where this ended with a
            full window and hard eviction.
        mask: (B, T) bool, False for tokens that must leave no trace: they are not seen, but take a place in the window,
            which sleeps once it is full with them.
        on_overflow: called at an overflow in place of `sleep(..., n_passes)`, with a `WindowPass`, h and S.
        loss_windows: which windows carry loss, if that is known before the targets reach the device.
        after_loss: a window with loss sleeps too, once its loss is taken; see `Windows`.
        wake_passes: passes over every window before its outputs are used, see `repeat_wake_pass`.
        scored_only: at N = 1, leaves out what neither the loss nor S depends on, the last MLP of windows without loss;
            `Reading.hidden` then has the windows with loss alone.
        shared: joins the weights of a training step on a GPU, see `SharedWeights`.

    Raises:
        ValueError: if n_passes or wake_passes is below 1, n_passes is given beside `on_overflow`, or that does not
            return h and S, or the model, eviction, a shape or a dtype does not fit, or, on a CPU, a token or a target
            is not in the vocabulary.
    """
    check_model(model)
    settings = SleepSettings(n_passes, eviction, after_loss, wake_passes, policy_name(on_overflow))
    check_batch(tokens, targets, mask, model.vocab_size)
    windows = Windows.of_batch(tokens, targets, model.window_size, after_loss, loss_windows)
    if on_overflow is None:
        settings.warn_if_idle(len(model.blocks.state_index), windows if windows.length >= windows.size else None)
    goes_on = settings.sleeps or wake_passes > 1  # h is where further passes start
    answer = on_overflow or partial(sleep, n_passes=n_passes)
    start = model.init_fast_weights(len(tokens))
    S = start if fast_weights is None else fast_weights  # line 1
    check_fast_weights("fast_weights", S, start)
    cache, slides = model.init_cache(), eviction == "sliding"
    hidden, scored = [], []
    for number, (span, carries_loss, sleeps) in enumerate(windows):  # lines 2-3
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
            S = sleep_window(WindowPass(model, wake, number), answer)  # line 6, passes 2..N
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


def sleep_window(blocks: WindowPass, on_overflow: OnOverflow) -> FastWeights:
    """The fast weights after a sleep on a window: the looped blocks repeat, then the coda reads the new h once, from
    the S that it had before the window."""
    left = on_overflow(blocks, blocks.wake.core, blocks.wake.S)
    if not (isinstance(left, tuple | list) and len(left) == 2 and isinstance(left[1], FastWeights)):
        raise ValueError(f"on_overflow must return h and S (FastWeights), got {type(left).__name__!r}")
    h, S = left
    check_fast_weights("fast_weights that a sleep leaves", S, blocks.wake.S)
    return blocks.model.coda_pass(h, S, blocks.wake)[1] if blocks.count else S


@dataclass(frozen=True)
class Reading:
    """The result of `read_windows`: `windows`, wake-pass outputs `hidden` (B, T, D), final S, mean loss over all
    targets, and logits (B, P, V) and targets (B, P) of the windows with loss. Printed, it is windows and loss."""

    model: HybridLM = field(repr=False)
    windows: Windows
    hidden: Tensor = field(repr=False)
    fast_weights: FastWeights = field(repr=False)
    loss: Tensor | None
    scored_logits: Tensor | None = field(repr=False)
    scored_targets: Tensor | None = field(repr=False)

    @property
    def logits(self) -> Tensor:
        """(B, T, V), computed on demand."""
        return self.model.logits(self.hidden)

    @classmethod
    def of(cls, model: HybridLM, windows: Windows, hidden: list[Tensor], scored: list, S: FastWeights) -> "Reading":
        """Joins the outputs of all windows, and (logits, targets) of those with loss."""
        whole = torch.cat(hidden, dim=1) if len(hidden) > 1 else hidden[0]
        if not scored:
            return cls(model, windows, whole, S, None, None, None)
        logits, targets = (torch.cat(parts, dim=1) for parts in zip(*scored, strict=True))
        return cls(model, windows, whole, S, masked_cross_entropy(logits, targets), logits, targets)


def masked_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of line 9: the mean, in nats, over the targets (B, P) that are not `IGNORE`, of logits (B, P, V)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
