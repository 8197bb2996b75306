"""Which windows sleep, and what is said where none does."""

import warnings
from functools import partial

import pytest
import torch

from lmsleep import Session, read_windows
from lmsleep.settle import Settle, forget
from lmsleep.sleep import sleep
from lmsleep.windows import IGNORE, SleepSettings, Windows, policy_name

L = 6


@pytest.mark.parametrize("T", [1, L - 1, L, 2 * L + 3, 4 * L])
@pytest.mark.parametrize("size", [1, L])
def test_windows_that_are_full_and_carry_no_loss_sleep(T, size):
    """Position by position, for targets at random places of three rows."""
    generator = torch.Generator().manual_seed(T)
    targets = torch.where(torch.rand(3, T, generator=generator) < 0.1, 1, IGNORE)
    found = list(Windows.of(targets, size))
    assert [place for span, _, _ in found for place in range(T)[span]] == list(range(T))
    for span, carries_loss, sleeps in found:
        places = range(T)[span]
        assert carries_loss == any(targets[b, t] != IGNORE for b in range(3) for t in places)
        assert sleeps == (len(places) == size and not carries_loss)
        at_hand = sleeps or (carries_loss and places[-1] < T - 1)
        assert (span, carries_loss, at_hand) in list(Windows.of(targets, size, after_loss=True))
    windows = Windows.of(targets, size)
    assert windows.n_sleeps == sum(sleeps for _, _, sleeps in found)
    assert windows.token_passes(1, wake_passes=3) == 3 * T
    assert windows.token_passes(4) == sum(len(range(T)[span]) * (4 if sleeps else 1) for span, _, sleeps in found)
    unscored = [(span, False, len(range(T)[span]) == size) for span, _, _ in found]
    assert list(Windows.of(torch.full_like(targets, IGNORE), size)) == unscored


def test_a_reading_that_was_to_sleep_and_does_not_says_why(build, draw_tokens):
    tokens = draw_tokens(2, 2 * L)
    with pytest.warns(UserWarning, match=r"^n_passes is 4, but no window of the batch \(12 tokens, .*loss in every"):
        read_windows(build("AG"), tokens, tokens, n_passes=4)
    with pytest.warns(UserWarning, match=r"^n_passes is 4, but the model has no fast weights to sleep with$"):
        read_windows(build("AA"), tokens, n_passes=4)
    with pytest.warns(UserWarning, match=r"^n_passes is 2, but the model has no fast weights"):
        Session(build("AA"), n_passes=2)


def test_a_reading_that_sleeps_or_is_not_to_warns_of_nothing(build, draw_tokens):
    tokens = draw_tokens(2, 2 * L)
    with warnings.catch_warnings(action="error"):
        read_windows(build("AG"), tokens, tokens)
        read_windows(build("AG"), tokens, n_passes=4)
        read_windows(build("AG"), tokens, tokens, n_passes=4, after_loss=True)
        read_windows(build("AG"), tokens[:, : L - 1], tokens[:, : L - 1], n_passes=4)
        Session(build("AA"))


def test_a_policy_is_called_by_where_it_is_found_and_its_fields():
    assert policy_name(None) is None
    assert policy_name(forget) == "lmsleep.settle.forget"
    assert policy_name(partial(sleep, n_passes=2)) == "lmsleep.sleep.sleep, (), {'n_passes': 2}"
    assert policy_name(Settle(0.1, 4, print)) == "lmsleep.settle.Settle(threshold=0.1, most=4)"
    assert policy_name(torch.nn.Identity()) == "torch.nn.modules.linear.Identity"


def test_passes_are_left_out_beside_a_policy():
    with pytest.raises(ValueError, match=r"^n_passes must be left out beside on_overflow, got 3$"):
        SleepSettings(3, on_overflow="lmsleep.settle.forget")
    assert SleepSettings(on_overflow="lmsleep.settle.forget").sleeps and not SleepSettings().sleeps
    told = []
    SleepSettings(on_overflow="lmsleep.settle.forget").warn_if_idle(0, warn=told.append)
    (warning,) = map(str, told)
    assert warning == "on_overflow is lmsleep.settle.forget, but the model has no fast weights to sleep with"
