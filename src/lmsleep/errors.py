"""What commands say: help as it was written, and one sentence for an error that a user can put right."""

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import DefaultHelpFormatter


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Leaves the lines of a description, which shows commands, as they are."""


@contextmanager
def one_sentence(*others: type[Exception]) -> Iterator[None]:
    """Ends the program with `error: <what is wrong>` and exit code 1 where a value cannot be used, a file is missing or
    a loss is not finite. Any other error is a mistake of ours and keeps its traceback.

    Args:
        others: further exceptions that speak to the user.

    Raises:
        SystemExit: with the sentence.
    """
    try:
        yield
    except (ValueError, FileNotFoundError, FloatingPointError, *others) as error:
        missing = error.filename if isinstance(error, FileNotFoundError) else None
        sys.exit(f"error: {error}" if missing is None else f"error: there is no file or folder {str(missing)!r}")
