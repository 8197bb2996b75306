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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table

from lmsleep.checks import require
from lmsleep.commands.clock import StepTimer
from lmsleep.commands.fit import RunParser, SleepCLI, change_pretrained, make_cli, steps_of_epochs
from lmsleep.commands.quiet import quiet
from lmsleep.errors import one_sentence
from lmsleep.memory import check_n_passes
from lmsleep.model import HybridConfig
from lmsleep.pretrained import pretrained_config
from lmsleep.sleep import Windows
from lmsleep.tasks import Batch
from lmsleep.training.nonfinite import StopOnNonFinite


@dataclass(frozen=True)
class StepWork:
    """The work of a training step, from shapes alone.

    Args:
        config: with vocab_size and window_size set.
        batch: an example, of whose rows and windows with loss the counts are taken.
        n_passes: N.
        accumulate: batches of a step.
        after_loss: whether windows with loss sleep too.
        wake_passes: passes over every window.
    """

    config: HybridConfig
    batch: Batch
    n_passes: int
    accumulate: int = 1
    after_loss: bool = False
    wake_passes: int = 1

    @property
    def windows(self) -> Windows:
        """The windows of a row."""
        return Windows.of(self.batch.targets, self.config.window_size or 1, self.after_loss)

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.accumulate * len(self.batch.tokens)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.windows.length

    @property
    def token_passes(self) -> int:
        """Tokens of a step, each counted once for every pass over it."""
        return self.rows * self.windows.token_passes(self.n_passes, self.wake_passes)

    @property
    def flops(self) -> int:
        """FLOPs of a step: matrix products forward, and twice as many backward. A last window that is not full counts
        as if it were."""
        windows, head = self.windows, 2 * self.config.d_model * (self.config.vocab_size or 0)
        once, awake, often = (self.config.flops_per_token(n) for n in (1, self.wake_passes, self.n_passes))
        asleep = windows.n_sleeps * windows.size
        scored = sum(min(span.stop, windows.length) - span.start for span, loss, _ in windows if loss)
        return 3 * self.rows * (windows.length * (awake - head) + asleep * (often - once) + scored * head)


CLI = TypeVar("CLI", bound="PlanCLI")


def hide(parser: LightningArgumentParser, *options: str) -> None:
    """Leaves options out of the help of a command to which they are of no use."""
    for option in options:
        parser._option_string_actions[option].help = SUPPRESS


class PlanParser(RunParser):
    """Its help shows what `lmsleep fit` has not; the options of a run, all of which it takes, that of `fit` shows."""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        self._action_groups = self._action_groups[:2]  # argparse's own: arguments with positions, options
        return super().format_help(formatter)


class PlanCLI(SleepCLI):
    """The command line of `lmsleep fit`, for a shortened run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str | None, help=SUPPRESS)  # of the run; not read
        parser.add_argument("--steps", type=int, default=20, help="steps that are timed, after as many to warm up")
        parser.add_argument(
            "--device", type=Literal["own", "meta"], default="own", help="own: the run's; meta: measure nothing"
        )
        hide(parser, "--print_config", "--seed_everything")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)
        model, given = self.config.model, parser.parse_args(args, defaults=False).get("model.model")
        # A preset of a published model has all sizes: its weights are not downloaded to plan it.
        if model.init_from and (Path(model.init_from).is_dir() or "vocab_size" not in (given or ())):
            change_pretrained(model, given)

    def before_instantiate_classes(self) -> None:
        """Shortens the run to the steps that are measured; `whole` has the settings of all of it."""
        require(self.config.steps >= 2, "steps must be 2 or more", self.config.steps)
        trainer, fast = self.config.trainer, self.config.trainer.fast_dev_run
        require(not fast, "fast_dev_run of the trainer must be false to plan a run", fast)
        every, said = trainer.val_check_interval, "val_check_interval of the trainer must be a number of batches"
        require(isinstance(every, int | None), f"{said} to plan a run", every)
        self.folder = tempfile.TemporaryDirectory(prefix="lmsleep-plan-")
        self.whole, self.clock = trainer.clone(), StepTimer()
        trainer.max_steps = 2 * self.config.steps
        trainer.val_check_interval = self.config.steps * trainer.accumulate_grad_batches
        trainer.check_val_every_n_epoch, trainer.max_time = None, None
        trainer.num_sanity_val_steps, trainer.logger, trainer.callbacks = 0, False, None
        trainer.enable_model_summary, trainer.enable_progress_bar = False, False
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
        return self.parser.instantiate_classes(self.config, instantiate_groups=False)

    @cached_property
    def full_run(self) -> Any:
        """The settings of the trainer for the whole run."""
        data, run = self.parts.data, self.whole.clone()
        run.update(Namespace(steps_of_epochs(data.task, data.batch_size, run)))
        return run

    def work(self) -> StepWork:
        """The work of a step."""
        made = self.parts
        task, model, sleeps = made.data.task, made.model, self.config.sleep
        check_n_passes(sleeps.n_passes)
        check_n_passes(sleeps.wake_passes, "wake_passes")
        config = model.model or (pretrained_config(model.init_from) if model.init_from else HybridConfig())
        batch = task.rows(split="train", seed=0, step=0, batch_size=made.data.batch_size)
        config = config.for_task(task.vocab_size, task.window_size, task.sequence_length)
        accumulate = self.config.trainer.accumulate_grad_batches
        return StepWork(config, batch, sleeps.n_passes, accumulate, sleeps.after_loss, sleeps.wake_passes)

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
    with quiet(), one_sentence(MisconfigurationException):
        cli = plan_run(PlanCLI, args, __doc__, "lmsleep plan")
        with cli.folder:
            steps = cli.full_run.max_steps
            require(steps >= 1, "max_steps of the trainer must be 1 or more to plan a run", steps)
            shown = table(cli, cli.work(), cli.measure() if cli.device_available else None)
        if not cli.device_available or cli.trainer.is_global_zero:
            Console().print(shown)


def plan_run(cli: type[CLI], args: list[str] | None, description: str | None = None, prog: str | None = None) -> CLI:
    """Parses a command line for `work` and `measure`; the caller cleans up `folder`."""
    return make_cli(cli, args, description, prog, run=False, save_config_callback=None, parser_class=PlanParser)


def table(cli: PlanCLI, work: StepWork, peak_bytes: int | None) -> Table:
    """The plan as a table, without times if nothing was measured."""
    run, clock, eviction = cli.full_run, cli.clock, cli.config.sleep.eviction
    state = work.config.build("meta").init_fast_weights(1).nbytes
    rows = [
        ("parameters", f"{work.config.num_params():,}", ""),
        ("fast weights", _size(state), "a row, one copy"),
        ("tokens a step", f"{work.tokens:,}", f"{work.token_passes:,} token-passes"),
        ("operations a step", f"{work.flops:,.3g}", "matrix products forward and backward"),
        ("steps", f"{run.max_steps:,}", f"{run.max_steps * work.tokens:,.4g} tokens"),
    ]
    if peak_bytes is None:
        rows.append(("time", "not measured", "the run's device is not here"))
    else:
        step = statistics.fmean(clock.batches()) * work.accumulate
        seconds = clock.estimate(run.max_steps * run.accumulate_grad_batches, cli.validations())
        place = cli.trainer.strategy.root_device.type
        checkpoint = "" if run.enable_checkpointing is False else ", each with a checkpoint"
        rows += [
            ("a step", f"{1e3 * step:,.4g} ms", f"{work.tokens / step:,.0f} tokens a second on {place}"),
            ("first batch", f"{clock.first:,.3g} s", f"accelerate: {cli.config.model.accelerate}"),
            ("a validation", f"{clock.validation:,.3g} s", f"{cli.validations():,} of them{checkpoint}"),
            ("peak memory", _size(peak_bytes), "of the device" if place == "cuda" else "of the process"),
            ("the run", _time(seconds), ""),
        ]
    title = f"{work.config.pattern}, N = {work.n_passes}, {eviction} eviction"
    out = Table("", "", "", title=title, show_header=False)
    for row in rows:
        out.add_row(*row)
    return out


def _size(n: int) -> str:
    if n >= 1e8:
        return f"{n / 1e9:,.2f} GB"
    return f"{n / 1e6:,.3g} MB" if n >= 1e5 else f"{n / 1e3:,.3g} kB"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.3g} hours"
    return f"{seconds / 60:,.3g} minutes" if seconds >= 60 else f"{seconds:,.3g} seconds"
