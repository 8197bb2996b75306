"""Lightning's notices are kept back, and come again afterwards."""

import logging
import warnings

import pytest
from lightning.pytorch.utilities import rank_zero_info

from lmsleep.commands.quiet import is_worth_saying, quiet, without_notices


def test_only_warnings_are_heard_and_all_afterwards(caplog):
    with pytest.raises(ZeroDivisionError), quiet():
        rank_zero_info("a tip")
        logging.getLogger("lightning.pytorch").warning("take care")
        raise ZeroDivisionError
    rank_zero_info("hello")
    assert caplog.messages == ["take care", "hello"]


def test_one_s_own_warnings_are_heard(recwarn):
    with quiet():
        warnings.warn("LightningCLI's args are ignored", stacklevel=1)
        warnings.warn("weights are not finite", stacklevel=1)
    assert [str(warning.message) for warning in recwarn] == ["weights are not finite"]


def test_what_every_run_is_told_is_left_out(recwarn):
    with without_notices():
        warnings.warn("Checkpoint directory x exists and is not empty.", stacklevel=1)
        warnings.warn("It is recommended to use `self.log('change_of_S/pass-2', ..., sync_dist=True)`", stacklevel=1)
        warnings.warn("The dirpath has changed from 'a' to 'b', therefore `best_model_score` ...", stacklevel=1)
        warnings.warn("`max_epochs` was not set. Setting it to 1000 epochs.", stacklevel=1)
        warnings.warn("Found 40 module(s) in eval mode at the start of training.", stacklevel=1)
        warnings.warn("no window sleeps", stacklevel=1)
    assert [str(warning.message) for warning in recwarn] == ["no window sleeps"]
    said = {"GPU available: False, used: False": False, "[rank: 1] Seed set to 0": False, "warm-up: 3 parameters": True}
    said |= {"An SIGTERMException was raised with message:             , saved checkpoint to x": False}
    for message, heard in said.items():
        assert is_worth_saying(logging.LogRecord("", 0, "", 0, message, (), None)) == heard
