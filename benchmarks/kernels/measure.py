"""What our kernels gain over those of libraries: microseconds forward, and forward and backward, at a run's sizes.

Every way is held against the definition before it is timed; what is not installed, fails or parts from the definition
is said to, and the others go on. It takes the options of a run (`lmsleep fit --help`), of which those of the model, the
task and the batch size count, and those below.

python -m benchmarks.kernels --config configs/experiment/paper/rule110.yaml --out kernels.json
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.kernels.job import Job, Run, Subject, Way
from benchmarks.kernels.jobs import JOBS
from lmsleep.atomic import check_output, save_text
from lmsleep.bench.train import device_kind, device_name
from lmsleep.checks import require
from lmsleep.commands.plan import PlanCLI, hide, plan_run
from lmsleep.commands.quiet import quiet
from lmsleep.errors import one_sentence

TOLERANCE = 0.1  # |x - definition| / |definition|, of outputs and gradients: bfloat16 gives 0.002 to 0.05
COLD = 150e6  # bytes that calls in turn go through, three times an H100's cache
PACKAGES = ("triton", "liger-kernel", "flash-linear-attention", "flash-attn", "mamba-ssm", "causal-conv1d")


class KernelsCLI(PlanCLI):
    """The arguments of `lmsleep plan`, and what is measured."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        hide(parser, "--steps", "--device")  # no step is taken
        parser.add_argument("--jobs", type=list[str], default=list(JOBS), help="what is computed")
        parser.add_argument("--repeats", type=int, default=20, help="timed rounds, of which the median counts")
        parser.add_argument("--seconds", type=float, default=150, help="after which no other way is begun")
        parser.add_argument("--out", type=Path | None, help="also write the JSON line here")


def main(args: list[str] | None = None) -> None:
    """The command."""
    args = list(sys.argv[1:] if args is None else args)
    with quiet(), one_sentence(MisconfigurationException):
        cli = plan_run(KernelsCLI, [*args, "--device=meta"], __doc__, "python -m benchmarks.kernels")
        asked = cli.config
        with cli.folder:
            if asked.out:
                check_output(asked.out, "out")
            unknown = [name for name in asked.jobs if name not in JOBS]
            require(not unknown, f"jobs must be some of {', '.join(JOBS)}", ", ".join(unknown))
            require(asked.repeats >= 1, "repeats must be 1 or more", asked.repeats)
            work, kind = cli.work(), device_kind(asked)
        dtype = torch.bfloat16 if kind == "cuda" else torch.float32
        subject = Subject(work.config, len(work.batch.tokens), torch.device(kind), dtype)
        head = {"device": device_name(kind), "torch": torch.__version__, "packages": installed()}
        head |= {"run": " ".join(Path(str(path)).name for path in asked.config or ())}
        rows: list[dict[str, Any]] = []
        for row in measure(subject, asked.jobs, asked.repeats, time.monotonic() + asked.seconds):
            rows.append(row)
            said = row["why_not"] or f"{row['forward_us']:.1f} us forward, {row['both_us']:.1f} us with backward"
            print(f"{row['job']}, {row['way']}: {said}", file=sys.stderr)
            if asked.out:  # after every row: a machine may be gone before the last
                save_text(asked.out, json.dumps(head | {"rows": rows}) + "\n")
        print(pd.DataFrame(rows).fillna("").to_string(index=False, float_format="{:,.4g}".format))


def installed() -> dict[str, str | None]:
    """The versions of the libraries; None for those that are not here."""

    def found(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: found(name) for name in PACKAGES}


def measure(subject: Subject, jobs: Sequence[str], repeats: int, end: float) -> Iterator[dict[str, Any]]:
    """A row for every way of every job: `error` against the definition; microseconds `forward_us` and `both_us`, the
    second with the gradients of all inputs; `terabytes_per_second`, as if every tensor and gradient were moved once;
    `timed`, see `microseconds`; else `why_not`."""
    for name in jobs:
        job = JOBS[name](subject)
        for way, taken in {"torch": Way(job.torch), **job.ways, "torch.compile": Way(job.torch)}.items():
            row: dict[str, Any] = {"job": name, "way": way, "error": None, "forward_us": None, "both_us": None}
            row |= {"terabytes_per_second": None, "timed": None, "why_not": None}
            try:
                if time.monotonic() > end:
                    raise TimeoutError("not begun, the seconds were over")
                run = taken.load()
                if way == "torch.compile":
                    torch._dynamo.reset()
                    run = torch.compile(run, dynamic=False)
                row["error"], moved = compare(job, run)
                require(row["error"] <= TOLERANCE, f"its error must be at most {TOLERANCE}", row["error"])
                drawn = [job.make() for _ in range(max(2, min(8, round(COLD / moved))))]
                sets = [(x, [torch.randn_like(y) for y in run(*x)]) for x in drawn]
                row["forward_us"], row["timed"] = microseconds(lambda x, _, r=run: r(*x), sets, repeats)
                row["both_us"], _ = microseconds(partial(_gradients, run), sets, repeats)
                row["terabytes_per_second"] = moved / row["both_us"] / 1e6
            except ModuleNotFoundError as error:
                row["why_not"] = f"not installed: {error.name}"
            except (Exception, SystemExit) as error:  # whatever a library raises
                row["why_not"] = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            yield row


def _gradients(run: Run, inputs: Sequence[Tensor], upstream: Sequence[Tensor]) -> Sequence[Tensor]:
    """The outputs and the gradients of all inputs."""
    outputs = run(*inputs)
    return [*outputs, *torch.autograd.grad(list(outputs), list(inputs), list(upstream))]


def compare(job: Job, run: Run) -> tuple[float, int]:
    """The largest error of outputs and gradients against the definition in float32, and the bytes of all of them and of
    what they are made from. Other shapes raise what torch raises."""
    inputs = job.make()
    wide = [x.detach().float().requires_grad_() for x in inputs]
    expected = job.definition(*wide)
    upstream = [torch.randn_like(y) for y in expected]
    expected = [*expected, *torch.autograd.grad(list(expected), wide, upstream)]
    with torch.no_grad():
        outputs = run(*(x.clone() for x in inputs))
    narrow = [u.to(y.dtype) for u, y in zip(upstream, outputs, strict=True)]
    got = _gradients(run, [x.detach().clone().requires_grad_() for x in inputs], [u.clone() for u in narrow])
    pairs = ((g.detach().float(), e.detach()) for g, e in zip(got, expected, strict=True))
    error = float(torch.stack([(g - e).norm() / e.norm() for g, e in pairs]).max())  # NaN goes before all numbers
    return error, sum(x.numel() * x.element_size() for x in (*inputs, *narrow, *got))


def microseconds(
    work: Callable[[list[Tensor], list[Tensor]], Any], sets: Sequence[tuple[list[Tensor], list[Tensor]]], repeats: int
) -> tuple[float, str]:
    """The median time of one call of `work`, with inputs and gradients of outputs from sets that do not fit into a
    cache together, and how it was taken.

    "graph": replays of a CUDA graph of one call a set; "kernels": the sum of the kernels' times, of work that waits for
    the device and cannot be captured; "clock": wall time on a CPU.
    """

    def once() -> None:
        for inputs, upstream in sets:
            work(inputs, upstream)

    if not sets[0][0][0].is_cuda:
        once()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            once()
            times.append(time.perf_counter() - start)
        return 1e6 * statistics.median(times) / len(sets), "clock"
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # compiles and tunes
        once()
        once()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    if _waits(once):
        with profile(activities=[ProfilerActivity.CUDA]) as p:
            for _ in range(repeats):
                once()
            torch.cuda.synchronize()
        return sum(e.self_device_time_total for e in p.key_averages()) / repeats / len(sets), "kernels"
    graph = torch.cuda.CUDAGraph()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.graph(graph):
        once()
    graph.replay()
    times = []
    for _ in range(repeats):
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(1e3 * start.elapsed_time(stop) / len(sets))
    return statistics.median(times), "graph"


def _waits(work: Callable[[], None]) -> bool:
    """Whether work waits for the device, which no graph can hold."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return False
