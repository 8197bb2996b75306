"""The speed of a training step of a run, at several N, with our implementations and those of other packages.

It takes the options of a run (`lmsleep fit --help`) and those below, and measures as `lmsleep plan`.

lmsleep bench train --config configs/experiment/rule110.yaml
lmsleep bench train --config configs/experiment/paper/rule110.yaml --passes=[1,4] --variants=[compile+graph]
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from lmsleep.atomic import check_output, save_text
from lmsleep.checks import require
from lmsleep.commands.plan import PlanCLI, hide, plan_run
from lmsleep.commands.quiet import quiet
from lmsleep.commands.run_errors import run_errors
from lmsleep.errors import naming_flags
from lmsleep.ops import use_backend
from lmsleep.ops.backend import Backend, offered
from lmsleep.windows import check_n_passes


def gated_delta_transformers(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The gated delta rule of transformers' Qwen3-Next in torch, with chunks of 64 tokens. Raises ValueError if
    transformers is not installed."""
    try:
        from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule
    except ImportError as error:
        raise ValueError("the variant 'transformers' needs transformers: pip install transformers") from error
    q, k, v, log_decay, beta = (x.transpose(1, 2) for x in (q, k, v, log_decay, beta))
    o, state_after = torch_chunk_gated_delta_rule(
        q, k, v, log_decay, beta, initial_state=state, output_final_state=True
    )
    assert state_after is not None
    return o.transpose(1, 2), state_after


TRANSFORMERS = Backend("transformers", lambda: gated_delta_transformers, automatic=False)
Variant = Literal["none", "compile", "graph", "compile+graph", "transformers", "fla"]
PEERS = ("transformers", "fla")  # gated delta rules of other packages; other variants are values of `model.accelerate`
DEFAULT: dict[str, list[Variant]] = {"cpu": ["none", "transformers"], "cuda": ["compile+graph", "graph", "none", "fla"]}
# Dense bfloat16 FLOP/s, from the data sheets.
PEAK = {"rtx 4090": 165e12, "a6000": 155e12, "a100": 312e12, "h100": 989e12, "h200": 989e12}


class BenchCLI(PlanCLI):
    """The arguments of `lmsleep plan`, and the settings to measure."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        hide(parser, "--device")
        parser.add_argument("--passes", type=list[int], default=[1, 2, 4], help="values of N")
        parser.add_argument("--variants", type=list[Variant] | None, help="by default ours and the peer of the device")
        parser.add_argument("--out", type=Path | None, help="also write the JSON line here")


def main(args: list[str] | None = None) -> None:
    """The command."""
    args = list(sys.argv[1:] if args is None else args)
    with quiet(), run_errors():
        cli = plan_run(BenchCLI, [*args, "--device=meta"], __doc__, "lmsleep bench train")
        options = cli.config
        with naming_flags(cli.flag):
            for name in ("passes", "variants"):
                require(options[name] != [], f"{name} must name one or more", options[name])
            for n_passes in options.passes:
                check_n_passes(n_passes, "passes")
            if options.out:
                check_output(options.out, "out")
        device = device_kind(options)
        rows: list[dict[str, Any]] = []
        for n_passes in options.passes:
            for variant in options.variants or DEFAULT[device]:
                rows.append(measure(args, variant, n_passes))
                print(f"{variant}, N={n_passes}: {rows[-1]['ms_per_step']:.2f} ms", file=sys.stderr)
                if options.out:  # after every row: a machine may be gone before the last
                    save_text(options.out, json_line(rows, device) + "\n")
        table = pd.DataFrame(rows).drop(columns="run")
        print(table.to_string(index=False, float_format="{:,.4g}".format, line_width=100))
        if not sys.stdout.isatty():  # for a program
            print(json_line(rows, device))


def measure(
    args: Sequence[str], variant: Variant, n_passes: int, cli_class: type[BenchCLI] = BenchCLI
) -> dict[str, Any]:
    """A row of measurements: steps of the run that `args` describe, at this N and with this variant.

    `ms_spread` is the 90th minus the 10th percentile; a token-pass is one token in one pass; `utilisation` is relative
    to the dense bfloat16 rate, None if that or `peak_bytes` is unknown; `first_step_seconds` includes compilation,
    tuning and capture. Raises ValueError for a device or variant that cannot run here.
    """
    accelerate = "none" if variant in PEERS else variant
    forced = {"gated_delta": variant} if variant in PEERS else {}
    with offered("gated_delta", TRANSFORMERS), use_backend(**forced):
        cli = plan_run(cli_class, [*args, f"--sleep.n_passes={n_passes}", f"--model.accelerate={accelerate}"])
        with cli.folder:
            if not cli.device_available:
                raise ValueError(
                    f"--trainer.accelerator must be one that is here, got {cli.config.trainer.accelerator}"
                )
            work, peak_bytes = cli.work(), cli.measure()
    device = cli.trainer.strategy.root_device.type
    # The batches of a step cost about the same.
    low, seconds, high = work.accumulate * np.percentile(cli.clock.batches(), [10, 50, 90])
    peak = next((rate for gpu, rate in PEAK.items() if gpu in device_name(device).lower()), None)
    return {
        "run": " ".join(Path(str(path)).name for path in cli.config.config or ()),
        "variant": variant,
        "n_passes": n_passes,
        "precision": str(cli.trainer.precision),
        "ms_per_step": 1e3 * seconds,
        "ms_spread": 1e3 * (high - low),
        "tokens_per_second": work.tokens / seconds,
        "token_passes_per_second": work.token_passes / seconds,
        "flops_per_step": work.flops,
        "utilisation": work.flops / seconds / peak / cli.trainer.world_size if peak else None,
        "peak_bytes": peak_bytes if device == "cuda" else None,
        "first_step_seconds": cli.clock.first,
    }


def device_kind(options: Any) -> str:
    """ "cuda" or "cpu", the device of the run."""
    return "cuda" if torch.cuda.is_available() and options.trainer.accelerator != "cpu" else "cpu"


def device_name(kind: str) -> str:
    """The name of the GPU, or the threads that torch uses on the CPU."""
    return torch.cuda.get_device_name() if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def json_line(rows: Sequence[dict[str, Any]], device: str) -> str:
    """All rows, with device and torch version, as JSON."""
    return json.dumps({"device": device_name(device), "torch": torch.__version__, "rows": list(rows)})
