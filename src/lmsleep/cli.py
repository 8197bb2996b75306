"""The command line: LightningCLI for fit, validate, test and predict, and the project's own commands beside it."""

import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from lmsleep.atomic import check_checkpoint_file
from lmsleep.data import RowsDataModule
from lmsleep.errors import one_sentence
from lmsleep.predictions import PredictionWriter
from lmsleep.training import LastCheckpoint, RunReport, SleepCallback, SleepModule, StopOnNonFinite
from lmsleep.training.deadline import RandomState

# name -> (module with a `main(argv)`, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "bench": ("lmsleep.bench", "measure what training and reading cost"),
    "doctor": ("lmsleep.doctor", "say what is installed, which backends are used, and how to add what is missing"),
    "demo": ("lmsleep.runtime.demo", "watch a model read, fall asleep and answer"),
    "export": ("lmsleep.pretrained.export", "turn a Lightning checkpoint into a folder that from_pretrained reads"),
    "slices": ("lmsleep.pipeline.slices", "train the cells of a grid for some minutes at a time"),
    "plan": ("lmsleep.bench.plan", "say what a run needs before it starts: memory, tokens, operations, hours"),
}


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml when training starts, so that a run that is refused before leaves that of an earlier one."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")


class SleepCLI(LightningCLI):
    """LightningCLI whose model and data share one task and whose trainer sleeps.

    `--sleep.n_passes=4` sets N; the task is given once, under `data.task`; `--checkpoint.dirpath` is where `last.ckpt`
    goes, from which `--ckpt_path` resumes.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(SleepCallback, "sleep")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.link_arguments("data.task", "model.task")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        check_checkpoint(self.config[self.config.subcommand].get("ckpt_path"))

    def instantiate_classes(self) -> None:
        """Raises ValueError with the constructor's own sentence where a value is out of range."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse wraps what a constructor says; the first cause is the constructor's own sentence.
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise ValueError(str(cause)) from None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, LastCheckpoint)]
        if self.subcommand == "predict":
            callbacks = [*callbacks, PredictionWriter()]
        return super()._instantiate_trainer(config, callbacks)


def check_checkpoint(path: str | None) -> None:
    """Raises ValueError if there is no checkpoint at `path`, or a damaged one."""
    if path is None or path in ("best", "last", "hpc") or path.startswith("registry") or "://" in path:
        return  # Lightning finds it
    if Path(path).is_dir():  # a sharded one
        return
    if not Path(path).exists():
        raise ValueError(f"ckpt_path must be a checkpoint of `lmsleep fit`, but there is no file {path!r}")
    check_checkpoint_file(path)


def overview() -> str:
    """What `lmsleep --help` says."""
    trainer = {
        "fit": "train: lmsleep fit --config configs/experiment/rule110.yaml --sleep.n_passes=4",
        "validate": "score a checkpoint on the validation rows",
        "test": "score a checkpoint on the test rows",
        "predict": "write what a checkpoint answers on the test rows to predictions.csv",
    }
    lines = ["Language models that sleep.", "", "usage: lmsleep COMMAND [options]   (lmsleep COMMAND --help)", ""]
    lines += [f"  {name:10}{what}" for name, what in trainer.items()]
    lines += ["", *(f"  {name:10}{what}" for name, (_, what) in sorted(COMMANDS.items()))]
    return "\n".join([*lines, "", "Figures: make repro, or dvc repro fig2b."])


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command; `args` default to the command line. A run that SIGTERM ended exits with 143, a bad value with
    one sentence and 1."""
    words = list(sys.argv[1:] if args is None else args)
    if words in ([], ["-h"], ["--help"]):
        print(overview())
        return
    with one_sentence(MisconfigurationException):
        if words[0] in COMMANDS:
            importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])
        else:
            run_trainer(None if args is None else words)


def run_trainer(args: list[str] | None) -> None:
    """Runs a command of Lightning's; None: that of the command line."""
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    try:
        SleepCLI(
            SleepModule,
            RowsDataModule,
            SaveConfig,
            args=args,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [StopOnNonFinite(), RunReport(), RandomState()]},
            parser_kwargs={"parser_mode": "omegaconf+", "description": __doc__},
        )
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
