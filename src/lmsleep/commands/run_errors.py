"""Errors of a run, from Lightning or the machine, as sentences that a user can act on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from lmsleep.commands.quiet import without_notices
from lmsleep.errors import one_sentence
from lmsleep.signals import INTERRUPTED, TERMINATED


@contextmanager
def run_errors() -> Iterator[None]:
    """Turns errors of a run into SystemExit: one sentence that a user can act on, 130 for Ctrl-C, 143 for SIGTERM."""
    with without_notices(), one_sentence(MisconfigurationException):
        try:
            with exit_codes():
                yield
        except ImportError as error:
            if not str(error).lower().startswith(("install ", "please install ")):
                raise
            raise ValueError(f"an address must be one that can be read and written here: {error}") from error
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "t allocate memory" not in str(error):
                raise
            remedy = "lower data.batch_size (accumulate_grad_batches of the trainer keeps the rows of a step), "
            remedy += "data.eval_batch_size or sleep.n_passes, or set model.checkpointing"
            raise ValueError(f"out of memory: {remedy}") from error


@contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the program with 130 for Ctrl-C and 143 for SIGTERM, where Lightning ends it as an error and as a success
    do, with 1 and 0."""
    try:
        yield
    except SIGTERMException:
        sys.exit(TERMINATED)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        raise
