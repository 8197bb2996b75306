"""Scaling of a training step over devices: tokens a second, efficiency, memory, and the error of its gradients.

It takes the options of a run (`lmsleep fit --help`) and those below, and measures as `lmsleep bench train`, for each
number of devices. The batch size of the configuration is that of a step under strong scaling, and that of each device
under weak scaling.

lmsleep bench scale --config configs/experiment/paper/rule110.yaml --counts=[1,2,4] --passes=[1,4]
lmsleep bench scale --config configs/experiment/paper/depo_4block.yaml --how=fsdp --variants=[none]
"""

import json
import os
import sys
import tempfile
from argparse import SUPPRESS
from itertools import product
from pathlib import Path
from typing import Any, Literal

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.cli import LightningArgumentParser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lmsleep.atomic import check_output, save_text
from lmsleep.bench.train import BenchCLI, Variant, device_kind, json_line, measure
from lmsleep.checks import check_distinct, counted, require
from lmsleep.commands.plan import plan_run
from lmsleep.commands.quiet import quiet
from lmsleep.commands.run_errors import run_errors
from lmsleep.errors import naming_flags
from lmsleep.training.sharded import full_tensor

Scaling = Literal["strong", "weak"]
DEFAULT: list[Variant] = ["none"]
SHARDED = "lightning.pytorch.strategies.ModelParallelStrategy"
# Without checkpoints, which take long for a large model.
STEPS_ALONE = ["--trainer.enable_checkpointing=false", "--trainer.limit_val_batches=0"]


class FirstGradients(L.Callback):
    """Writes the gradients of the first step, unsharded and averaged over ranks, for `gradient_error`."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        if self.path is None or trainer.global_step:
            return
        grads = {}
        for name, p in pl_module.named_parameters():
            if p.grad is not None:
                grad = full_tensor(p.grad)  # all ranks take part
                if trainer.is_global_zero:
                    grads[name] = grad.float().cpu()
        if trainer.is_global_zero:
            torch.save(grads, self.path)


class ScaleCLI(BenchCLI):
    """The arguments of `lmsleep bench train`, and how the step is distributed."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--counts", type=list[int], default=[1, 2, 4], help="numbers of devices")
        rows = "strong: the devices share the rows of a step; weak: each has as many"
        parser.add_argument("--scaling", type=list[Scaling], default=["strong", "weak"], help=rows)
        parser.add_argument("--how", type=Literal["ddp", "fsdp"], default="ddp", help="whole or sharded models")
        parser.add_argument("--gradients", type=bool, default=True, help="compare gradients with the fewest devices'")
        parser.add_argument("--gradient_file", type=Path | None, help=SUPPRESS)  # where those of one rank go

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        self.trainer_defaults["callbacks"].append(FirstGradients(self.config.gradient_file))


def main(args: list[str] | None = None) -> None:
    """The command; in the processes that it starts, one rank."""
    args = list(sys.argv[1:] if args is None else args)
    with run_errors():
        cli = plan_run(ScaleCLI, [*args, "--device=meta"], __doc__, "lmsleep bench scale")
        options = cli.config
        with naming_flags(cli.flag):
            check_distinct(counts=options.counts, passes=options.passes)
            require(min(options.counts) >= 1, "counts must be 1 or more", min(options.counts))
            if options.out:
                check_output(options.out, "out")
        if "RANK" in os.environ:
            run_rank(args, options)
            return
        device = device_kind(options)
        rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory(prefix="lmsleep-scale-") as folder:
            for count in sorted(options.counts):
                rows += run_ranks(args, count, Path(folder))
                add_comparisons(rows, Path(folder))
                if options.out:  # after every count: a machine may be gone before the last
                    save_text(options.out, json_line(rows, device) + "\n")
        print(pd.DataFrame(rows).drop(columns="run").to_string(index=False, float_format="{:,.4g}".format))


def run_ranks(args: list[str], count: int, folder: Path) -> list[dict[str, Any]]:
    """Starts `count` ranks, a device each, and returns the rows that they measure. Raises ValueError if one fails."""
    out = folder / f"{count}.json"
    ranks = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="scale",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",  # the machine's own name may not resolve
        max_restarts=0,
    )
    command = ("-m", "lmsleep", "bench", "scale", *args, f"--counts=[{count}]", f"--out={out}")
    try:
        elastic_launch(ranks, sys.executable)(*command)
    except ChildFailedError:
        raise ValueError(f"{counted(count, 'devices')}: a process failed, see above") from None
    return json.loads(out.read_text(encoding="utf-8"))


def run_rank(args: list[str], settings: Any) -> None:
    """Measures all settings, together with the other ranks; the first writes the rows to --out."""
    count = int(os.environ["WORLD_SIZE"])
    rows = []
    options = [*args, *STEPS_ALONE, f"--trainer.devices={count}"]
    if count > 1 and settings.how == "ddp":
        options += ["--trainer.strategy=ddp"]
    elif count > 1:
        sizes = {"data_parallel_size": count, "tensor_parallel_size": 1}
        options += [f"--trainer.strategy={SHARDED}", *(f"--trainer.strategy.{k}={v}" for k, v in sizes.items())]
    for scaling in settings.scaling if count > 1 else settings.scaling[:1]:
        batch_size = settings.data.batch_size * (count if scaling == "weak" else 1)
        for n_passes, variant in product(settings.passes, settings.variants or DEFAULT):
            more = [f"--data.batch_size={batch_size}"]
            if settings.gradients and scaling == "strong":
                more += [f"--gradient_file={settings.out.parent / f'{count}-{variant}-{n_passes}.pt'}"]
            with quiet():
                row = measure([*options, *more], variant, n_passes, ScaleCLI)
            rows.append({"devices": count, "scaling": scaling, "how": settings.how, "batch_size": batch_size, **row})
            if os.environ["RANK"] == "0":
                setting = f"{counted(count, 'devices')}, {scaling}, {variant}, N={n_passes}"
                print(f"{setting}: {row['ms_per_step']:.2f} ms", file=sys.stderr)
    if os.environ["RANK"] == "0":
        settings.out.write_text(json.dumps(rows), encoding="utf-8")


def add_comparisons(rows: list[dict[str, Any]], folder: Path) -> None:
    """Adds `efficiency`, tokens a second and device relative to the smallest count, to every row, and `gradient_error`,
    the maximum over parameters of |g - g_1| / |g_1|, to those with the batch of the smallest count."""
    for row in rows:
        same = [r for r in rows if (r["variant"], r["n_passes"]) == (row["variant"], row["n_passes"])]
        least = next(r for r in same if r["devices"] == 1 or r["scaling"] == row["scaling"])
        row["efficiency"] = row["tokens_per_second"] / row["devices"] / (least["tokens_per_second"] / least["devices"])
        files = [folder / f"{r['devices']}-{r['variant']}-{r['n_passes']}.pt" for r in (row, least)]
        if row is not least and row["scaling"] == "strong" and all(file.exists() for file in files):
            row["gradient_error"] = gradient_error(*(torch.load(f, weights_only=True, mmap=True) for f in files))


def gradient_error(grads: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """max |g - w| / |w| over parameters; infinite if the names differ."""
    if grads.keys() != wanted.keys():
        return float("inf")
    return max(float((grads[name] - w).norm() / w.norm().clamp(min=1e-30)) for name, w in wanted.items())
