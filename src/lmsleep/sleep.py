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
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.memory import Eviction, FastWeights, check_eviction, check_n_passes
from lmsleep.model import HybridLM, Wake

IGNORE = -100
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
        h, S = blocks(h, S)  #                                                           line 6, both h and S go on
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
) -> "Reading":
    """Algorithm 1 over whole sequences (B, T); back-propagation goes through every pass of every window.

    A window sleeps if it is full and carries no loss in any row. `mask` (B, T) is False for tokens that must leave no
    trace. `on_overflow` answers an overflow in place of `sleep(..., n_passes)`. `loss_windows` says which windows carry
    loss, where that is known before the targets reach the device.

    Raises:
        ValueError: if n_passes is below 1, the eviction unknown, or a shape does not fit.
    """
    check_n_passes(n_passes)
    check_eviction(eviction)
    on_overflow = on_overflow or partial(sleep, n_passes=n_passes)
    S = model.init_fast_weights(len(tokens))  #                                           line 1
    cache, keep = model.init_cache(), eviction == "sliding"
    hidden, scored = [], []
    for window in cut_windows(tokens, targets, mask, model.window_size, loss_windows):  # lines 2-3
        wake = model.wake(window.tokens, S, cache, window.mask, keep=keep)  #             lines 4, 8, pass 1 of line 6
        S, cache = wake.S, wake.cache
        hidden.append(wake.h)
        if window.carries_loss:  #                                                        line 7
            scored.append((model.logits(wake.h), window.targets))  #                      line 9
        if cache.full:
            if not window.carries_loss:  #                                                line 5
                S = sleep_window(model, wake, on_overflow)  #                             line 6, passes 2..N
            cache = cache.evict(eviction)  #                                              line 10
    return Reading.of(model, hidden, scored, S)


def sleep_window(model: HybridLM, wake: Wake, on_overflow: OnOverflow) -> FastWeights:
    """The fast weights after a sleep on the window that `wake` has read.

    Only the looped blocks repeat. If h has changed, the blocks after them then read it once, from the S they had before
    the window, as if the wake pass had not yet reached them.
    """
    h, S = on_overflow(partial(model.loop_pass, wake=wake), wake.core, wake.S)
    return S if h is wake.core else model.coda_pass(h, S, wake)


@dataclass(frozen=True)
class Reading:
    """What reading a sequence gave: wake-pass outputs `hidden` (B, T, D), the final S, the mean loss over all targets,
    and the logits (B, P, V) and targets (B, P) of the loss-bearing windows."""

    model: HybridLM
    hidden: Tensor
    fast_weights: FastWeights
    loss: Tensor | None
    scored_logits: Tensor | None
    scored_targets: Tensor | None

    @property
    def logits(self) -> Tensor:
        """(B, T, V), computed when asked for: training needs those of the loss-bearing windows alone."""
        return self.model.logits(self.hidden)

    @classmethod
    def of(cls, model: HybridLM, hidden: list[Tensor], scored: list, S: FastWeights) -> "Reading":
        """From the outputs of each window, and logits and targets of each window with loss."""
        if not scored:
            return cls(model, torch.cat(hidden, dim=1), S, None, None, None)
        logits, targets = (torch.cat(parts, dim=1) for parts in zip(*scored, strict=True))
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(wide.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        return cls(model, torch.cat(hidden, dim=1), S, loss, logits, targets)


@dataclass(frozen=True)
class Window:
    """Up to L consecutive tokens that attention can see together: (B, L) each."""

    tokens: Tensor
    targets: Tensor | None
    mask: Tensor | None
    carries_loss: bool


def cut_windows(
    tokens: Tensor,
    targets: Tensor | None,
    mask: Tensor | None,
    size: int,
    loss_windows: Sequence[bool] | None = None,
) -> Iterator[Window]:
    """Windows of `size` tokens from the start of the sequence; the last may be shorter.

    Raises:
        ValueError: if there is no token, or tokens, targets and mask differ in shape.
    """
    if tokens.ndim != 2 or not tokens.numel():
        raise ValueError(f"tokens must be (B, T) with at least one row and one token, got {tuple(tokens.shape)}")
    for name, other in (("targets", targets), ("mask", mask)):
        if other is not None and other.shape != tokens.shape:
            raise ValueError(f"{name} must have the shape of tokens {tuple(tokens.shape)}, got {tuple(other.shape)}")
    starts = range(0, tokens.shape[1], size)
    if loss_windows is None:
        loss_windows = [False] * len(starts) if targets is None else windows_with_loss(targets, size)
    for start, carries_loss in zip(starts, loss_windows, strict=True):
        span = slice(start, start + size)
        yield Window(
            tokens[:, span],
            None if targets is None else targets[:, span],
            None if mask is None else mask[:, span],
            carries_loss,
        )


def windows_with_loss(targets: Tensor, size: int) -> list[bool]:
    """Which windows of `size` tokens carry loss in any row of targets (B, T)."""
    # One transfer for the whole sequence: a loop over windows must not wait for the device.
    scored = (targets != IGNORE).any(dim=0).tolist()
    return [any(scored[start : start + size]) for start in range(0, len(scored), size)]
