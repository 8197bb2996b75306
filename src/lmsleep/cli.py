"""The command line: LightningCLI for fit, validate, test and predict, and the project's own commands beside it."""

import importlib
import sys
from collections.abc import Sequence

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lmsleep.data import RowsDataModule
from lmsleep.training import RunReport, SleepCallback, SleepModule, StopOnNonFinite

# name -> (module with a `main(argv)`, what it does)
COMMANDS: dict[str, tuple[str, str]] = {}


class SleepCLI(LightningCLI):
    """LightningCLI whose model and data share one task and whose trainer sleeps.

    `--sleep.n_passes=4` sets N; the task is given once, under `data.task`.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(SleepCallback, "sleep")
        parser.link_arguments("data.task", "model.task")


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command; `args` default to the command line."""
    args = list(sys.argv[1:] if args is None else args)
    if args and args[0] in COMMANDS:
        importlib.import_module(COMMANDS[args[0]][0]).main(args[1:])
        return
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    SleepCLI(
        SleepModule,
        RowsDataModule,
        args=args,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [StopOnNonFinite(), RunReport()]},
        parser_kwargs={"parser_mode": "omegaconf+", "description": __doc__},
    )


if __name__ == "__main__":
    main()
