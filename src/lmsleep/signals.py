"""What the processes of a command do at a signal. Lightning's own handlers are in `training.lightning_internals`."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from signal import SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGUSR1, Handlers, default_int_handler
from signal import getsignal as handler_of
from signal import signal as handle

# Exit codes after Ctrl-C, a closed output and SIGTERM, as a shell has them of a program that a signal ends.
INTERRUPTED, UNREAD, TERMINATED = (128 + signum for signum in (SIGINT, SIGPIPE, SIGTERM))


def ending_at_ctrl_c() -> AbstractContextManager[None]:
    """Within the block Ctrl-C ends the program at once, unless it was to do something else than raise
    KeyboardInterrupt: raised within an import, which takes seconds, that would be a page of traceback, or be swallowed
    by a library that does without a part of it."""
    return _at_ctrl_c(SIG_DFL) if handler_of(SIGINT) is default_int_handler else nullcontext()


def deaf_to_ctrl_c() -> AbstractContextManager[None]:
    """Within the block Ctrl-C does nothing, and never to a program started in it: it would say where it was."""
    return _at_ctrl_c(SIG_IGN)


@contextmanager
def _at_ctrl_c(action: Handlers) -> Iterator[None]:
    here = _can_handle()
    before = handle(SIGINT, action) if here else None
    try:
        yield
    finally:
        if here:
            handle(SIGINT, before)


def _can_handle() -> bool:
    """Whether this is the thread in which a handler can be set."""
    return threading.current_thread() is threading.main_thread()


def outlive_signals(_: int) -> None:
    """Has a worker ignore what is sent to all processes of a run, as SLURM and terminals do: the run itself stops, once
    it is saved, and its workers with it. One that died before would end the run in the middle of a step. A second
    SIGTERM ends it, as one in a slow batch gets from its loader and from Python at the end of the program."""
    for signum in (SIGHUP, SIGUSR1):
        handle(signum, SIG_IGN)
    handle(SIGTERM, lambda *_: handle(SIGTERM, SIG_DFL))


def stop_with_terminal() -> None:
    """Makes SIGHUP, the end of the terminal, stop a run as SIGTERM does, where it would kill it."""
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def hang_up(*_: object) -> None:
        for stream in terminals:  # to write to what is gone would be an error, before the run is saved
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        stop()

    if _can_handle() and handler_of(SIGHUP) == SIG_DFL:
        handle(SIGHUP, hang_up)


def stop() -> None:
    """Stops this process as SIGTERM does."""
    os.kill(os.getpid(), SIGTERM)
