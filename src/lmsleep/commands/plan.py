"""Estimate the cost of a run: time and memory from its first steps, or sizes alone if its device is not here.

Twice --steps steps are measured, each time with a validation and a checkpoint in a temporary folder; callbacks of the
configuration are left out. It takes the options of a run (`lmsleep fit --help`) and those below.

lmsleep plan --config configs/experiment/rule110.yaml --sleep.n_passes=4
lmsleep plan --config configs/experiment/paper/rule110.yaml --device meta     parameters, state and operations alone
"""

import resource
import statistics
import tempfile
import time
from argparse import SUPPRESS, HelpFormatter
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from lmsleep.checks import check_integer, require
from lmsleep.commands.cost import StepTimer, StepWork
from lmsleep.commands.fit import SleepCLI, change_pretrained, make_cli, steps_of_epochs
from lmsleep.commands.parser import RunParser
from lmsleep.commands.quiet import quiet
from lmsleep.commands.run_errors import run_errors
from lmsleep.data import RowsDataModule
from lmsleep.errors import naming_flags, of_constructors
from lmsleep.model import HybridConfig
from lmsleep.pretrained import pretrained_config
from lmsleep.training.nonfinite import StopOnNonFinite
from lmsleep.windows import SleepSettings

CLI = TypeVar("CLI", bound="PlanCLI")


def hide(parser: LightningArgumentParser, *options: str) -> None:
    """Leaves options out of the help of a command to which they are of no use."""
    for option in options:
        parser._option_string_actions[option].help = SUPPRESS


class PlanParser(RunParser):
    """Takes all options of `lmsleep fit`, but its help shows only those that `fit` has not."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        groups = self._action_groups
        self._action_groups = groups[:2]  # argparse's own: arguments with positions, options
        try:
            return super().format_help(formatter)
        finally:
            self._action_groups = groups


class PlanCLI(SleepCLI):
    """The command line of `lmsleep fit`, for a shortened run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str | None, help=SUPPRESS)
        parser.add_argument("--weights_only", type=bool | None, help=SUPPRESS)  # in the config.yaml of a run; not read
        parser.add_argument("--steps", type=int, default=20, help="steps that are timed, after as many to warm up")
        parser.add_argument(
            "--device", type=Literal["own", "meta"], default="own", help="own: the run's; meta: measure nothing"
        )
        hide(parser, "--print_config", "--seed_everything")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)
        start = self.config.ckpt_path
        require(start is None, "ckpt_path must be null to plan a run, whose steps are counted from the first", start)
        model, given = self.config.model, parser.parse_args(args, defaults=False).get("model.model")
        # A preset of a published model has all sizes: its weights are not downloaded to plan it.
        if model.init_from and (Path(model.init_from).is_dir() or "vocab_size" not in (given or ())):
            change_pretrained(model, given)

    def before_instantiate_classes(self) -> None:
        """Shortens the run to the steps that are measured; `whole` has the settings of all of it."""
        check_integer("steps", self.config.steps, 2, 1_000_000)
        trainer, fast = self.config.trainer, self.config.trainer.fast_dev_run
        require(not fast, "fast_dev_run of the trainer must be false to plan a run", fast)
        every, allowed = trainer.val_check_interval, "val_check_interval of the trainer must be a number of batches"
        require(isinstance(every, int | None), f"{allowed} to plan a run", every)
        super().before_instantiate_classes()
        self.folder = tempfile.TemporaryDirectory(prefix="lmsleep-plan-")
        self.whole, self.clock = trainer.clone(), StepTimer()
        trainer.max_steps = 2 * self.config.steps
        trainer.val_check_interval = self.config.steps * trainer.accumulate_grad_batches
        trainer.check_val_every_n_epoch, trainer.max_time = None, None
        trainer.num_sanity_val_steps, trainer.logger, trainer.callbacks = 0, False, None
        trainer.enable_model_summary = trainer.enable_progress_bar = False
        self.trainer_defaults["callbacks"] = [self.clock, StopOnNonFinite()]  # no report of a run of so few steps
        trainer.default_root_dir = self.config.checkpoint.dirpath = self.folder.name

    @property
    def device_available(self) -> bool:
        """Whether this machine has the run's device."""
        on_gpu = self.config.trainer.accelerator in ("gpu", "cuda")
        return self.config.device == "own" and (torch.cuda.is_available() or not on_gpu)

    def instantiate_classes(self) -> None:
        if self.device_available:
            super().instantiate_classes()

    @cached_property
    def parts(self) -> Any:
        """The configuration with its objects, such as the task; neither the model nor its data are built."""
        with of_constructors():
            return self.parser.instantiate(self.config, instantiate_groups=False)

    @property
    def data(self) -> RowsDataModule:
        """The rows of the run, whose files are read once."""
        return self.datamodule if self.device_available else self.parts.data

    @cached_property
    def full_run(self) -> Any:
        """The settings of the trainer for the whole run."""
        data, run = self.data, self.whole.clone()
        run.update(Namespace(steps_of_epochs(data.task, data.batch_size, run)))
        return run

    def work(self) -> StepWork:
        """The work of a step."""
        data, model = self.data, self.parts.model
        sleeps = SleepSettings(**{field.name: self.config.sleep[field.name] for field in fields(SleepSettings)})
        config = model.model or (pretrained_config(model.init_from) if model.init_from else HybridConfig())
        config = config.for_task(data.task.vocab_size, data.task.window_size, data.task.sequence_length)
        batch = data.task.rows(split="train", seed=0, step=0, batch_size=data.batch_size)
        return StepWork(config, batch, sleeps, self.config.trainer.accumulate_grad_batches)

    def measure(self) -> int:
        """Runs the steps, timed by `clock`. Returns the peak memory in bytes, on CUDA of the device, else of this
        process."""
        cuda = self.trainer.strategy.root_device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        self.clock.started = time.perf_counter()
        self.trainer.fit(self.model, self.datamodule)
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return torch.cuda.max_memory_allocated() if cuda else 1024 * kibibytes

    def validations(self) -> int:
        """Number of validations of the whole run."""
        batches = self.full_run.max_steps * self.full_run.accumulate_grad_batches
        every = self.full_run.val_check_interval
        return int(batches // every) if isinstance(every, int) and self.full_run.limit_val_batches != 0 else 0


def main(args: list[str] | None = None) -> None:
    """The command."""
    with quiet(), run_errors():
        cli = plan_run(PlanCLI, args, __doc__, "lmsleep plan")
        with cli.folder, naming_flags(cli.flag):
            steps = cli.full_run.max_steps
            require(steps >= 1, "max_steps of the trainer must be 1 or more to plan a run", steps)
            plan = table(cli, cli.work(), cli.measure() if cli.device_available else None)
        if not cli.device_available or cli.trainer.is_global_zero:
            Console().print(plan)


def plan_run(cli: type[CLI], args: list[str] | None, description: str | None = None, prog: str | None = None) -> CLI:
    """Parses a command line for `work` and `measure`; the caller cleans up `folder`."""
    return make_cli(cli, args, description, prog, run=False, save_config_callback=None, parser_class=PlanParser)


def table(cli: PlanCLI, work: StepWork, peak_bytes: int | None) -> Table:
    """The plan as a table, without times if nothing was measured."""
    run, clock, sleeps = cli.full_run, cli.clock, work.sleeps
    rows = [
        ("parameters", f"{work.config.num_params():,}", ""),
        ("fast weights", decimal(work.config.build("meta").init_fast_weights(1).nbytes), "a row, one copy"),
        ("tokens a step", f"{work.tokens:,}", f"{work.token_passes:,} token-passes"),
        ("operations a step", f"{work.flops:,.3g}", "matrix products forward and backward"),
        ("steps", f"{run.max_steps:,}", f"{run.max_steps * work.tokens:,.4g} tokens"),
    ]
    if peak_bytes is None:
        rows.append(("time", "not measured", "the run's device is not here"))
    else:
        step = statistics.fmean(clock.batches()) * work.accumulate
        seconds = clock.estimate(run.max_steps * run.accumulate_grad_batches, cli.validations())
        device = cli.trainer.strategy.root_device.type
        checkpoint = "" if run.enable_checkpointing is False else ", each with a checkpoint"
        rows += [
            ("a step", f"{1e3 * step:,.4g} ms", f"{work.tokens / step:,.0f} tokens a second on {device}"),
            ("first batch", f"{clock.first:,.3g} s", f"accelerate: {cli.config.model.accelerate}"),
            ("a validation", f"{clock.validation:,.3g} s", f"{cli.validations():,} of them{checkpoint}"),
            ("peak memory", decimal(peak_bytes), "of the device" if device == "cuda" else "of the process"),
            ("the run", _time(seconds), ""),
        ]
    title = f"{work.config.pattern}, N = {sleeps.n_passes}, {sleeps.eviction} eviction"
    plan = Table("", "", "", title=title, show_header=False)
    for row in rows:
        plan.add_row(*row)
    return plan


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.3g} hours"
    return f"{seconds / 60:,.3g} minutes" if seconds >= 60 else f"{seconds:,.3g} seconds"
