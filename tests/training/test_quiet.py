"""Lightning's notices are kept back, and come again afterwards."""

import logging
import warnings

import pytest
from lightning.pytorch.utilities import rank_zero_info

from lmsleep.training.quiet import quiet


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
