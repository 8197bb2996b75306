"""What a training run will need, before it starts: memory of one device, work of a step, and rough hours.

It takes the arguments of `lmsleep fit`; neither weights nor data are loaded or trained.

lmsleep plan --config run.yaml --gpu h100 --utilisation 0.3
"""

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ActionConfigFile, set_parsing_settings
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table

from lmsleep.bench.cost import Plan, Run, make_plan
from lmsleep.data import RowsDataModule
from lmsleep.errors import one_sentence
from lmsleep.memory import check_n_passes
from lmsleep.model import HybridConfig
from lmsleep.pretrained import pretrained_config
from lmsleep.training import LastCheckpoint, OptimizerConfig, SleepCallback, SleepModule

# name -> (dense bfloat16 operations a second, bytes of memory), from the makers' data sheets
GPUS = {
    "rtx4090": (165e12, 24e9),
    "a6000": (155e12, 48e9),
    "a100": (312e12, 80e9),
    "h100": (989e12, 80e9),
    "h200": (989e12, 141e9),
}

# Lightning's short names
PRECISIONS = {"None": "32-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


def read_run(argv: Sequence[str]) -> tuple[Run, str, float]:
    """The run of a command line of `lmsleep fit`, the GPU and the utilisation.

    Raises:
        ValueError: if the batch cannot be shared or a value is out of range.
    """
    parser = _parser()
    parsed = parser.parse_args(list(argv))
    if not 0 < parsed.utilisation <= 1:
        raise ValueError(f"utilisation must be above 0 and at most 1, got {parsed.utilisation}")
    # Groups are left alone: the model must not be built, let alone filled with pretrained weights.
    made: Any = parser.instantiate_classes(parsed, instantiate_groups=False)
    task, model, trainer = made.data.task, made.model, made.trainer
    config = model.model or (pretrained_config(model.init_from) if model.init_from else HybridConfig())
    check_n_passes(made.sleep.n_passes)
    devices = int(trainer.devices) if str(trainer.devices).isdigit() else 1
    if made.data.batch_size % devices:
        raise ValueError(f"batch_size must be divisible by the {devices} devices, got {made.data.batch_size}")
    run = Run(
        task,
        config.for_task(task.vocab_size, task.window_size),
        model.optimizer or OptimizerConfig(),
        made.sleep.n_passes,
        made.sleep.eviction,
        made.data.batch_size,
        trainer.accumulate_grad_batches,
        max(1, trainer.max_steps or 1),
        PRECISIONS.get(str(trainer.precision), str(trainer.precision)),
        model.checkpointing,
        devices,
        "ModelParallel" in type(trainer.strategy).__name__,
    )
    return run, parsed.gpu, parsed.utilisation


def _parser() -> LightningArgumentParser:
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = LightningArgumentParser("lmsleep plan", description=__doc__ or "", parser_mode="omegaconf+")
    parser.add_argument("--config", action=ActionConfigFile, help="a configuration of `lmsleep fit`; may be repeated")
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    parser.add_argument("--ckpt_path", type=str | None, default=None)
    for kind, key in ((Trainer, "trainer"), (SleepModule, "model"), (RowsDataModule, "data")):
        parser.add_lightning_class_args(kind, key)
    parser.add_lightning_class_args(SleepCallback, "sleep")
    parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
    parser.link_arguments("data.task", "model.task")
    parser.add_argument("--gpu", choices=list(GPUS), default="h100", help="whose peak rate and memory are compared")
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.1,
        help="part of the peak rate that training reaches (default: 0.1; measured on an H100 with compile+graph: 0.07 "
        "for Rule 110 at the paper's sizes, 0.14 for Depo)",
    )
    return parser


def table(run: Run, plan: Plan, gpu: str, utilisation: float) -> Table:
    """The plan for a person, line by line."""
    rate, memory = GPUS[gpu]
    hours = plan.hours(rate, utilisation)
    on = f"{plan.devices} x {gpu}" if plan.devices > 1 else gpu
    rows = [
        ("parameters", f"{plan.parameters:,}", f"{plan.muon_parameters:,} by Muon, the rest by AdamW"),
        ("weights", _size(plan.weights), run.precision),
        ("gradients", _size(plan.gradients), ""),
        ("optimizer", _size(plan.optimizer), "one moment for Muon, two for AdamW"),
        ("Muon's update", _size(plan.update), "for a moment, when the activations are gone"),
        (
            "activations",
            _size(plan.activations),
            "one pass recomputed" if run.checkpointing else "all passes kept, not compiled",
        ),
        ("fast weights", _size(plan.fast_weights), "one copy, all rows of the device"),
        (
            "memory",
            _size(plan.memory),
            f"{'fits' if plan.memory < 0.9 * memory else 'does NOT fit'} {memory / 1e9:.0f} GB",
        ),
        ("tokens a step", f"{plan.tokens:,}", f"{plan.token_passes:,} token-passes through the loop"),
        ("operations a step", f"{plan.flops / 1e12:,.3g} T", "forward, backward" + ", recomputed" * run.checkpointing),
        ("steps", f"{plan.steps:,}", f"{plan.steps * plan.tokens / 1e6:,.1f} M tokens"),
        ("hours", f"{hours:,.3g}", f"{on} at {utilisation:.0%} of its {rate / 1e12:.0f} T/s"),
    ]
    out = Table(
        "", "a device, or a step", "", title=f"{run.config.pattern}, N = {run.n_passes}, {run.eviction} eviction"
    )
    for row in rows:
        out.add_row(*row)
    return out


def _size(n: int) -> str:
    return f"{n / 1e9:,.2f} GB" if n >= 1e8 else f"{n / 1e6:,.3g} MB"


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        run, gpu, utilisation = read_run(sys.argv[1:] if argv is None else argv)
        Console().print(table(run, make_plan(run), gpu, utilisation))
