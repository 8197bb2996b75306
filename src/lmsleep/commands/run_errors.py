"""Errors of a run, from Lightning or the machine, as sentences that a user can act on."""

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from lmsleep.commands.quiet import without_notices
from lmsleep.errors import one_sentence

NO_ACCELERATOR = "No supported gpu backend|the accelerator is not available|torch_xla"


@contextmanager
def run_errors() -> Iterator[None]:
    """Turns errors of a run into SystemExit: one sentence that a user can act on, or 143 for SIGTERM."""
    with without_notices(), one_sentence(MisconfigurationException):
        try:
            yield
        except SIGTERMException:
            sys.exit(128 + signal.SIGTERM)
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
def naming_devices(trainer: Namespace) -> Iterator[None]:
    """Within the block a Trainer is made of the settings `trainer`. Raises ValueError if its devices are not here."""
    try:
        yield
    except (MisconfigurationException, ModuleNotFoundError) as error:
        if not re.search(NO_ACCELERATOR, str(error)):
            raise
        allowed = "--trainer.accelerator must be one that `lmsleep doctor` finds here, or auto"
        raise ValueError(f"{allowed}, got {trainer.accelerator}") from None
    except TypeError as error:
        if "`devices` selected with" not in str(error):
            raise
        raise ValueError(f"--trainer.devices must be a number of 1 or more on a CPU, got {trainer.devices}") from None
