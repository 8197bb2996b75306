"""Silences notices of Lightning that tell a user nothing."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("lightning.pytorch", "lightning.fabric")
# Caused by Lightning's own code, or given in every run of ours.
WARNINGS = (
    ".*(LightningCLI's args|isinstance.treespec|Checkpoint directory .* exists and is not empty|tensorboardX|"
    "does not have many workers|It is recommended to use .self.log..change_of_S|"
    ".fit.ckpt_path=.last.. is set, but there is no last checkpoint|"
    "Experiment logs directory .* exists and is not empty|The dirpath has changed from|"
    ".max_epochs. was not set|Found .* module.s. in eval mode)"
)
NOTICES = re.compile(
    "GPU available: False|TPU available: False|HPU available: False|.*Tip: |(?:.rank: .+)?Seed set|"
    "`weights_only` was not set|Restoring states|Loaded model weights|Restored all states|"
    "`Trainer.fit` stopped: `max_steps|An SIGTERMException was raised"
)


@contextmanager
def without_notices() -> Iterator[None]:
    """Within the block `WARNINGS` and `NOTICES` are dropped."""
    handlers = [handler for name in ("lightning", *LOGGERS) for handler in logging.getLogger(name).handlers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", WARNINGS)
        for handler in handlers:
            handler.addFilter(is_worth_saying)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(is_worth_saying)


def is_worth_saying(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning is none of `NOTICES`."""
    return not NOTICES.match(record.getMessage())


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block Lightning logs only warnings, without `WARNINGS`."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with without_notices():
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
