"""What commands say: help as it was written, and one sentence for an error that a user can put right."""

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import DefaultHelpFormatter
from yaml import YAMLError


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Leaves the lines of a description, which shows commands, as they are."""


@contextmanager
def one_sentence(*others: type[Exception]) -> Iterator[None]:
    """Ends the program with `error: <what is wrong>` and exit code 1 where a value cannot be used, a file cannot be
    read or written, or a loss is not finite. Any other error is a mistake of ours and keeps its traceback.

    Args:
        others: further exceptions that speak to the user.

    Raises:
        SystemExit: with the sentence.
    """
    try:
        yield
    except (ValueError, FloatingPointError, OSError, YAMLError, *others) as error:
        if type(error) is OSError and error.errno is None:
            raise
        sys.exit(f"error: {sentence(error)}")


def sentence(error: Exception) -> str:
    """What an error says to a user."""
    if not isinstance(error, OSError) or error.strerror is None:
        return " ".join(str(error).split()) if isinstance(error, YAMLError) else str(error)
    if error.filename is None:
        return error.strerror.lower()
    path = repr(str(error.filename))
    if isinstance(error, FileNotFoundError):
        return f"there is no file or folder {path}"
    return f"{path} cannot be used: {error.strerror.lower()}"
