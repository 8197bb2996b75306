"""Train a model that sleeps, score it, write down what it answers.

lmsleep fit --config configs/experiment/rule110.yaml --sleep.n_passes=4 --checkpoint.dirpath=runs/mine
lmsleep test --config runs/mine/config.yaml --ckpt_path runs/mine/last.ckpt     validate and predict alike
lmsleep fit --data.task.help lmsleep.tasks.Depo                                 the arguments of a class

An option overrides the configuration. Those of Lightning's Trainer come last.
"""

import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lmsleep.atomic import atomic_write
from lmsleep.checks import LAST, program, require
from lmsleep.commands.leftovers import folders_to_make, remove_empty
from lmsleep.commands.parser import SECTIONS, RunParser, option_of
from lmsleep.commands.predictions import PredictionWriter, predictions_folder
from lmsleep.commands.progress import RunProgressBar
from lmsleep.commands.run_errors import run_errors
from lmsleep.commands.scores import print_scores
from lmsleep.data import RowsDataModule
from lmsleep.errors import HelpFormatter, naming_flags, of_constructors
from lmsleep.model.mixers import warn_of_mixers
from lmsleep.pretrained import pretrained_config
from lmsleep.tasks import Task, check_task
from lmsleep.training import LastCheckpoint, RunReport, SleepCallback, SleepModule, StopOnNonFinite
from lmsleep.training.callbacks import find_callback
from lmsleep.training.checkpoint import check_checkpoint, check_last, is_local
from lmsleep.training.lightning_internals import PlainCLI
from lmsleep.training.ranks import raise_on_all_ranks
from lmsleep.training.settings import check_empty, check_trainer


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml beside the checkpoint, at the first batch: a run that fails before keeps the old file."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.already_saved:
            return
        self.already_saved = True
        keeper = find_callback(trainer, LastCheckpoint)
        folder = (keeper and keeper.dirpath) or trainer.log_dir or trainer.default_root_dir
        with raise_on_all_ranks(trainer):
            if trainer.is_global_zero:
                get_filesystem(folder).makedirs(folder, exist_ok=True)
                path = f"{folder}/{self.config_filename}"
                with atomic_write(path) if is_local(path) else nullcontext(path) as place:
                    save = partial(self.parser.save, skip_unset=False, skip_validation=True, multifile=self.multifile)
                    save(self.config, str(place), overwrite=True)
            trainer.strategy.barrier()


class SleepCLI(PlainCLI):
    """LightningCLI with a `SleepCallback` (`--sleep.n_passes=4`), a `LastCheckpoint` (`--checkpoint.dirpath`, from
    which `--ckpt_path` resumes), and one task for model and data (`--data.task`)."""

    def __init__(self, *classes: Any, args: list[str] | None = None, **options: Any) -> None:
        self.words, self.new = sys.argv[1:] if args is None else args, []
        try:
            with naming_flags(self.flag):
                super().__init__(*classes, args=args, **options)
        except BaseException:
            for folder in self.new:
                remove_empty(folder)
            raise

    def flag(self, name: str, got: str) -> str | None:
        """The option that sets what an error calls `name`, as of `naming_flags`."""
        return option_of(getattr(self, "config", Namespace()), name, got)

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The command that is asked for alone: learning the options of all four takes longer than the rest."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name in self.words[:1]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser of our looks for a subcommand too."""
        return super().init_parser(**kwargs | self.parser_kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(SleepCallback, "sleep")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.link_arguments("data.task", "model.task", apply_on="instantiate")  # one object: it reads files once

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        if config.model.init_from:
            given = parser.parse_args(self.words, defaults=False)
            change_pretrained(config.model, given[self.config.subcommand].get("model.model"))
        check_checkpoint(config.get("ckpt_path"))
        if self.config.subcommand != "fit" and not config.get("ckpt_path") and not config.model.init_from:
            warnings.warn("the weights are random: --ckpt_path names those of a run", stacklevel=2)
        seed = config.get("seed_everything")
        require(isinstance(seed, bool) or 0 <= seed < 2**32, "seed_everything must be from 0 to 2**32 - 1", seed)

    def before_instantiate_classes(self) -> None:
        """Checks the settings of the trainer, and that no path is empty."""
        run = self.config.get(str(self.subcommand), self.config)
        check_trainer(run.trainer)
        for name in SECTIONS:
            check_empty(run[name].as_dict(), f"--{name}")

    def instantiate_classes(self) -> None:
        """Checks the task and the mixers of a run that trains."""
        with of_constructors():
            super().instantiate_classes()
        self.model.seed = self.config.get(str(self.subcommand), self.config).get("seed_everything")
        if self.subcommand in (None, "fit"):
            check_task(self.datamodule.task, min(self.datamodule.batch_size, 8))
            warn_of_mixers(self.model.model.config)

    def instantiate_trainer(self, **settings: Any) -> Trainer:
        """Adds what follows from the other settings and from the task. Raises ValueError if the device is not here."""
        run = self.config_init.get(str(self.subcommand), self.config_init)
        if run.trainer.get("enable_checkpointing") is False:
            run.checkpoint = Callback()  # a trainer without checkpoints refuses a callback that makes them
        if self.subcommand == "fit":
            settings |= steps_of_epochs(self.datamodule.task, self.datamodule.batch_size, run.trainer)
        wanted = run.trainer.get("enable_progress_bar") is not False
        # Behind the default callbacks: the report is printed before the bar, the path of predictions after it.
        if wanted and not any(isinstance(one, ProgressBar) for one in run.trainer.get("callbacks") or []):
            self.trainer_defaults["callbacks"].append(RunProgressBar())
        if self.subcommand == "predict":
            self.trainer_defaults["callbacks"].append(PredictionWriter(predictions_folder(run)))
        self.says_scores = run.get("verbose", False)
        if self.says_scores:
            run.verbose = False  # a table of Lightning's own
        if self.subcommand == "predict" or (self.subcommand != "fit" and run.trainer.get("logger") is None):
            settings |= {"logger": False}  # predictions are not logged, scores printed: no logger's folder beside them
        try:
            trainer = super().instantiate_trainer(**settings)
        except (MisconfigurationException, ModuleNotFoundError, OverflowError, TypeError) as error:  # by Lightning
            rule = "the settings of the trainer must fit together and this machine"
            raise ValueError(f"{rule}: {error}") from None
        check_last(trainer, run.get("ckpt_path"), trains=self.subcommand in (None, "fit"))
        return trainer

    def before_fit(self) -> None:
        """Notes what is removed if the run is refused."""
        self.new = folders_to_make(self.trainer) if self.trainer.is_global_zero else []

    before_validate = before_test = before_predict = before_fit

    def after_fit(self) -> None:
        """Prints the command that scores the weights, and the one that renews a model exported beside them."""
        keeper = find_callback(self.trainer, LastCheckpoint)
        if keeper and keeper.best_model_path:
            folder = os.path.relpath(Path(keeper.best_model_path).parent)
            config, last = (shlex.quote(f"{folder}/{name}") for name in ("config.yaml", LAST))
            rank_zero_info(f"to score it: {program()} test --config={config} --ckpt_path={last}")
            if Path(folder, "model.safetensors").is_file():
                export = f"{program()} export --ckpt={last} --out={shlex.quote(folder)} --overwrite"
                rank_zero_info(f"the model and README.md in {folder} are of before this run; to renew them: {export}")

    def after_validate(self) -> None:
        """Prints the scores."""
        if self.says_scores and self.trainer.is_global_zero:
            print_scores("val" if self.subcommand == "validate" else "test", self.trainer.callback_metrics)

    after_test = after_validate


def steps_of_epochs(task: Task, batch_size: int, trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trainer that replace its `max_epochs`, if the task has epochs: its stream of rows is endless.
    Raises ValueError if no batch fills."""
    epochs, whole = trainer.get("max_epochs") or 0, trainer.get("limit_train_batches")
    batches = task.epoch_steps(batch_size)
    if batches is None or epochs < 1 or isinstance(whole, int):
        return {}
    steps = -(-epochs * batches // trainer["accumulate_grad_batches"])
    limit, every = trainer["max_steps"], trainer.get("val_check_interval")
    settings = {"max_epochs": None, "max_steps": steps if limit < 0 else min(steps, limit)}
    return settings | {"val_check_interval": min(every, epochs * batches)} if isinstance(every, int) else settings


def change_pretrained(model: Namespace, changes: Namespace | None) -> None:
    """Makes of a run's settings of the model, where it starts from pretrained weights, those of the weights with
    `changes`. Raises ValueError as `pretrained_config`."""
    if model.init_from and model.model and changes:
        model.model = Namespace(asdict(pretrained_config(model.init_from, **vars(changes))))


def run_trainer(args: list[str] | None, cli: type[SleepCLI] = SleepCLI, callbacks: Sequence[Callback] = ()) -> SleepCLI:
    """Runs a subcommand of LightningCLI; `args` None: those of the command line; `callbacks` as of `make_cli`. Raises
    SystemExit as `run_errors`."""
    prog = f"lmsleep {(sys.argv[1:] if args is None else args)[0]}"
    with run_errors():
        return make_cli(cli, args, __doc__, prog, callbacks, save_config_callback=SaveConfig)


def make_cli(
    cli: type[SleepCLI],
    args: list[str] | None,
    description: str | None,
    prog: str | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Any:
    """The command line interface `cli` of a run, with its arguments and configurations parsed; `callbacks` are more
    than those of its config.yaml."""
    parser = {"parser_mode": "omegaconf+", "description": description, "prog": prog, "formatter_class": HelpFormatter}
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return cli(
        SleepModule,
        RowsDataModule,
        args=args,
        seed_everything_default=0,
        # `RunReport` says what the model summary would, in a line.
        trainer_defaults={"callbacks": [StopOnNonFinite(), RunReport(), *callbacks], "enable_model_summary": False},
        parser_kwargs=parser | {"usage": f"{prog} --config FILE [options]", "allow_abbrev": False},
        load_from_checkpoint_support=False,  # a checkpoint gives no settings
        **{"parser_class": RunParser} | options,
    )
