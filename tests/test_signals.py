"""Who hears Ctrl-C, by the handler within a block and behind it; what a run does at a signal is tested with runs."""

from concurrent.futures import ThreadPoolExecutor
from signal import SIG_DFL, SIG_IGN, SIGINT, default_int_handler, getsignal, signal

import pytest

from lmsleep.signals import deaf_to_ctrl_c, ending_at_ctrl_c


@pytest.fixture(params=[default_int_handler, SIG_IGN, lambda *_: None], ids=["raises", "ignored", "own"])
def before(request):
    """What is done at Ctrl-C before the block."""
    kept = signal(SIGINT, request.param)
    yield request.param
    signal(SIGINT, kept)


def within(block):
    with block():
        return getsignal(SIGINT)


def test_an_import_is_ended_where_ctrl_c_would_raise_alone(before):
    assert within(ending_at_ctrl_c) is (SIG_DFL if before is default_int_handler else before)
    assert getsignal(SIGINT) is before


def test_nothing_hears_it_whatever_it_did_before(before):
    assert within(deaf_to_ctrl_c) is SIG_IGN
    assert getsignal(SIGINT) is before


@pytest.mark.parametrize("block", [ending_at_ctrl_c, deaf_to_ctrl_c])
def test_in_another_thread_nothing_changes(before, block):
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(within, block).result() is before
