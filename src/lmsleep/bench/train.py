"""What a training step costs: ours against the same model with other people's gated delta rule, in the same run.

lmsleep bench train                                  the mini Rule 110 model, about a minute on a CPU
lmsleep bench train --preset rule110-paper --passes=[1,2,3,4] --precision bf16 --out step.json
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lmsleep.atomic import atomic_write
from lmsleep.bench.device import usable_device
from lmsleep.bench.plan import GPUS
from lmsleep.bench.presets import DEFAULT_VARIANTS, PRECISIONS, PRESETS, VARIANTS
from lmsleep.memory import check_n_passes
from lmsleep.model import HybridLM
from lmsleep.model.linear import sharing_weights
from lmsleep.ops import use_backend
from lmsleep.sleep import Windows, read_windows
from lmsleep.tasks import Batch, Task
from lmsleep.training import OptimizerConfig
from lmsleep.training.graphs import GraphedStep, check_accelerate, compile_blocks


@dataclass(frozen=True)
class Row:
    """One line of the table. A token-pass is one token read once: the tokens that a step sleeps on count N times."""

    preset: str
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


def main(
    preset: Literal["rule110-mini", "rule110-paper", "depo-paper"] = "rule110-mini",
    passes: Sequence[int] = (1, 2, 4),
    variants: Sequence[str] | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    steps: int = 30,
    device: Literal["cpu", "cuda"] | None = None,
    out: Path | None = None,
) -> None:
    """The command.

    Args:
        preset: task and model.
        passes: values of N.
        variants: by default ours and the peer of this device.
        precision: by default bf16 on CUDA, fp32 on a CPU.
        steps: timed steps.
        device: by default cuda where there is one.
        out: also write the JSON line here.
    """
    place = usable_device(device)
    rows: list[Row] = []
    for n_passes in passes:
        for variant in variants or DEFAULT_VARIANTS[place]:
            kind = precision or ("bf16" if place == "cuda" else "fp32")
            rows.append(measure(preset, variant, n_passes, kind, steps, torch.device(place)))
            print(f"{variant}, N={n_passes}: {rows[-1].ms_per_step:.2f} ms", file=sys.stderr)
            if out:  # after every row: a machine may be gone before the last
                with atomic_write(out) as temporary:
                    temporary.write_text(json_line(rows, place) + "\n")
    Console().print(table(rows))
    print(json_line(rows, place))


def measure(preset: str, variant: str, n_passes: int, precision: str, steps: int, device: torch.device) -> Row:
    """Medians over `steps` training steps: rows to the device, forward, backward, clipping and update.

    Raises:
        ValueError: for N below 1, fewer than 1 step, or a variant that cannot run here.
    """
    check_n_passes(n_passes)
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    chosen, (accelerate, backends) = PRESETS[preset], VARIANTS[variant]
    check_accelerate(accelerate, device)
    task = chosen.task
    torch.manual_seed(0)
    model = chosen.model.for_task(task.vocab_size, task.window_size).build().to(device)
    batches = [task.rows(split="train", seed=0, step=i, batch_size=chosen.batch_size) for i in range(4)]
    if device.type == "cuda":
        batches = [Batch(*(x if x is None else x.pin_memory() for x in batch)) for batch in batches]  # pyright: ignore
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with use_backend(**backends):
        step = training_step(model, batches[0], n_passes, accelerate, PRECISIONS[precision], device)
        step(batches[0]).item()
        first = time.perf_counter() - start
        times = timed(step, batches, steps, device)
    tokens, passes = chosen.batch_size * task.sequence_length, token_passes(task, batches[0], n_passes)
    seconds, flops = statistics.median(times), step_flops(model, batches[0], passes)
    return Row(
        preset,
        variant,
        n_passes,
        precision,
        seconds * 1e3,
        spread(times) * 1e3,
        tokens / seconds,
        passes / seconds,
        flops,
        utilisation(flops / seconds, device),
        torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        first,
    )


def training_step(
    model: HybridLM, example: Batch, n_passes: int, accelerate: str, dtype: torch.dtype | None, device: torch.device
) -> Callable[[Batch], Tensor]:
    """A step as `lmsleep fit` takes it: rows -> loss, with the weights updated."""
    optimizer = OptimizerConfig().build(model.blocks, model)
    loss_windows = Windows.of(example.targets, model.window_size).carry_loss
    params = [p for p in model.parameters() if p.requires_grad]
    if "compile" in accelerate:
        compile_blocks(model)

    def loss_of(batch: Batch) -> tuple[Tensor, ...]:
        autocast = torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
        with autocast, sharing_weights(device.type == "cuda"):
            reading = read_windows(
                model, batch.tokens, batch.targets, n_passes, mask=batch.mask, loss_windows=loss_windows
            )
        assert reading.loss is not None
        return (reading.loss,)

    if "graph" in accelerate:
        graphed = GraphedStep(loss_of, optimizer, to_device(example, device), 1.0)
        return lambda batch: graphed(batch)[0]

    def step(batch: Batch) -> Tensor:
        (loss,) = loss_of(to_device(batch, device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        return loss

    return step


def timed(step: Callable[[Batch], Tensor], batches: Sequence[Batch], steps: int, device: torch.device) -> list[float]:
    """Seconds of each of `steps` steps after a warm-up.

    On CUDA several steps are in flight, as in training; their ends are taken by events on the device.
    """
    for i in range(3):
        step(batches[i % len(batches)])
    if device.type != "cuda":
        ends = [time.perf_counter()]
        for i in range(steps):
            step(batches[i % len(batches)])
            ends.append(time.perf_counter())
        return [b - a for a, b in pairwise(ends)]
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    events[0].record()
    for i in range(steps):
        step(batches[i % len(batches)])
        events[i + 1].record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in pairwise(events)]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; a copy from pinned memory does not wait."""
    return Batch(*(x if x is None else x.to(device, non_blocking=True) for x in batch))  # pyright: ignore


def token_passes(task: Task, batch: Batch, n_passes: int) -> int:
    """Tokens read in a step, counted as often as they are read."""
    return len(batch.tokens) * Windows.of(batch.targets, task.window_size).token_passes(n_passes)


def step_flops(model: HybridLM, batch: Batch, passes: int) -> float:
    """Matrix products of a step: forward once, backward twice."""
    block_flops = sum(layer.flops_per_token(model.window_size) for layer in model.blocks.layers)
    scored = sum(Windows.of(batch.targets, 1).carry_loss) * len(batch.tokens)
    return 3.0 * (passes * block_flops + scored * 2 * model.head.weight.numel())


def spread(times: Sequence[float]) -> float:
    """90th less 10th percentile; 0 for a single time."""
    if len(times) == 1:
        return 0.0
    deciles = statistics.quantiles(times, n=10)
    return deciles[8] - deciles[0]


def utilisation(flops_per_second: float, device: torch.device) -> float | None:
    """The share of the device's dense bfloat16 rate; None where that is not known."""
    name = device_name(device.type).lower()
    peak = next((rate for gpu, (rate, _) in GPUS.items() if gpu in name), None)
    return flops_per_second / peak if peak else None


def device_name(kind: str) -> str:
    """The name of the GPU, or the threads that torch uses on the CPU."""
    return torch.cuda.get_device_name() if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def json_line(rows: Sequence[Row], device: str) -> str:
    """All rows, and where they were measured."""
    return json.dumps({"device": device_name(device), "torch": torch.__version__, "rows": list(map(asdict, rows))})


def table(rows: Sequence[Row]) -> Table:
    """A line for each row."""
    result = Table(title=f"{rows[0].preset}, {rows[0].precision}: one training step", title_justify="left")
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
