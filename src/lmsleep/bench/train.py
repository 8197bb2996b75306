"""What a training step costs: a run's own steps, for several N and ways to take them, beside others' gated delta rules.

It takes the arguments of `lmsleep fit`, and measures as `lmsleep plan` does.

lmsleep bench train --config configs/experiment/rule110.yaml
lmsleep bench train --config configs/experiment/paper/rule110.yaml --passes=[1,4] --variants=[compile+graph]
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lmsleep.atomic import atomic_write
from lmsleep.errors import one_sentence
from lmsleep.memory import check_n_passes
from lmsleep.ops import use_backend
from lmsleep.ops.backend import Backend, offer
from lmsleep.training.plan import PlanCLI, plan


def gated_delta_transformers(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The torch function of transformers' Qwen3-Next layer, with its own chunk size of 64 tokens.

    Raises:
        ValueError: if transformers is not installed.
    """
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


offer("gated_delta", Backend("transformers", lambda: gated_delta_transformers, automatic=False))

Variant = Literal["none", "compile", "graph", "compile+graph", "transformers", "fla"]
PEERS = ("transformers", "fla")  # the same model with their gated delta rule; the other variants are `model.accelerate`
DEFAULT: dict[str, list[Variant]] = {"cpu": ["none", "transformers"], "cuda": ["compile+graph", "graph", "none", "fla"]}
# Dense bfloat16 operations a second, from the makers' data sheets.
PEAK = {"rtx 4090": 165e12, "a6000": 155e12, "a100": 312e12, "h100": 989e12, "h200": 989e12}


@dataclass(frozen=True)
class Row:
    """One line of the table. A token-pass is one token read once: the tokens that a step sleeps on count N times."""

    run: str
    variant: str
    n_passes: int
    precision: str
    ms_per_step: float
    ms_spread: float  # 90th less 10th percentile
    tokens_per_second: float
    token_passes_per_second: float
    flops_per_step: float
    utilisation: float | None  # of the device's dense bfloat16 rate; None where that is not known
    peak_bytes: int | None  # of device memory; None on a CPU
    first_step_seconds: float  # compilation, tuning and capture


class BenchCLI(PlanCLI):
    """The arguments of `lmsleep plan`, and what is measured."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--passes", type=list[int], default=[1, 2, 4], help="values of N")
        parser.add_argument("--variants", type=list[Variant] | None, help="by default ours and the peer of the device")
        parser.add_argument("--out", type=Path | None, help="also write the JSON line here")


def main(args: list[str] | None = None) -> None:
    """The command."""
    args = list(sys.argv[1:] if args is None else args)
    with one_sentence(MisconfigurationException):
        asked = plan(BenchCLI, [*args, "--device=meta"], __doc__).config
        device = "cuda" if torch.cuda.is_available() and asked.trainer.accelerator != "cpu" else "cpu"
        rows: list[Row] = []
        for n_passes in asked.passes:
            for variant in asked.variants or DEFAULT[device]:
                rows.append(measure(args, variant, n_passes))
                print(f"{variant}, N={n_passes}: {rows[-1].ms_per_step:.2f} ms", file=sys.stderr)
                if asked.out:  # after every row: a machine may be gone before the last
                    with atomic_write(asked.out) as temporary:
                        temporary.write_text(json_line(rows, device) + "\n")
        Console().print(table(rows))
        print(json_line(rows, device))


def measure(args: Sequence[str], variant: Variant, n_passes: int) -> Row:
    """Steps of the run that the arguments describe, at this N and in this way.

    Raises:
        ValueError: for N below 1, a device that is not here, or a variant that cannot run here.
    """
    check_n_passes(n_passes)
    accelerate = "none" if variant in PEERS else variant
    backends = {"gated_delta": variant} if variant in PEERS else {}
    with use_backend(**backends):
        cli = plan(BenchCLI, [*args, f"--sleep.n_passes={n_passes}", f"--model.accelerate={accelerate}"], __doc__)
        with cli.folder:
            if not cli.is_here:
                raise ValueError(f"trainer.accelerator must be one that is here, got {cli.config.trainer.accelerator}")
            work, pace = cli.work(), cli.measure()
    cuda = cli.trainer.strategy.root_device.type == "cuda"
    # Batches that are added up for one step cost about the same each.
    times = [work.accumulate * seconds for seconds in pace.batches]
    seconds = statistics.median(times)
    return Row(
        " ".join(Path(str(path)).name for path in cli.config.config or ()),
        variant,
        n_passes,
        str(cli.trainer.precision),
        seconds * 1e3,
        spread(times) * 1e3,
        work.tokens / seconds,
        work.token_passes / seconds,
        work.flops,
        utilisation(work.flops / seconds, cuda),
        pace.peak_bytes if cuda else None,
        pace.first,
    )


def spread(times: Sequence[float]) -> float:
    """90th less 10th percentile; 0 for a single time."""
    if len(times) == 1:
        return 0.0
    deciles = statistics.quantiles(times, n=10)
    return deciles[8] - deciles[0]


def utilisation(flops_per_second: float, cuda: bool) -> float | None:
    """The share of the device's dense bfloat16 rate; None where that is not known."""
    name = device_name("cuda" if cuda else "cpu").lower()
    return next((flops_per_second / rate for gpu, rate in PEAK.items() if gpu in name), None)


def device_name(kind: str) -> str:
    """The name of the GPU, or the threads that torch uses on the CPU."""
    return torch.cuda.get_device_name() if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def json_line(rows: Sequence[Row], device: str) -> str:
    """All rows, and where they were measured."""
    return json.dumps({"device": device_name(device), "torch": torch.__version__, "rows": list(map(asdict, rows))})


def table(rows: Sequence[Row]) -> Table:
    """A line for each row."""
    result = Table(title=f"{rows[0].run}, {rows[0].precision}: one training step", title_justify="left")
    for name in ("N", "variant", "ms", "±", "tokens/s", "passes/s", "MFU", "GiB", "1st s"):
        result.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for row in rows:
        result.add_row(
            str(row.n_passes),
            row.variant,
            f"{row.ms_per_step:.2f}",
            f"{row.ms_spread:.2f}",
            si(row.tokens_per_second),
            si(row.token_passes_per_second),
            "-" if row.utilisation is None else f"{row.utilisation:.1%}",
            "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f}",
            f"{row.first_step_seconds:.1f}",
        )
    return result


def si(value: float) -> str:
    """Three digits and a letter: 13.2 M."""
    for letter, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"
