"""Report what is installed, which backend every op uses and why, and how to install what is missing; in a checkout also
packages and pipeline stages that differ from those of the results.

lmsleep doctor
"""

import importlib
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from lmsleep.checks import counted
from lmsleep.ops import describe
from lmsleep.ops.backend import WINDOW
from lmsleep.ops.packages import FROM_SOURCE, INSTALL
from lmsleep.tensors import threads

NEEDED_GB = 1  # of scale mini: runs, data, DVC's cache


class Package(NamedTuple):
    """An optional package."""

    name: str
    module: str  # what is imported to see whether it works
    serves: str
    needs_cuda: bool = True


PACKAGES = (
    Package("triton", "triton", "our own kernels", needs_cuda=False),
    Package("flash-linear-attention", "fla", "gated delta over long windows"),
    Package("mamba-ssm", "mamba_ssm", "Mamba-2 layers"),
    Package("causal-conv1d", "causal_conv1d", "short convolutions"),
)


def main() -> None:
    """Prints the report. Nothing is installed; the exit code is 0 whatever is missing."""
    console = Console()
    lines = [*machine(), f"CPU: {threads()}", disk(), *version_drift(), *pipeline()]
    console.print("\n".join(lines), highlight=False, markup=False)
    console.print(packages())
    console.print(backends())
    console.print("\n".join(advice()), highlight=False, markup=False, soft_wrap=True)


def machine() -> list[str]:
    """The interpreter, torch and the devices."""
    lines = [f"lmsleep {metadata.version('lmsleep')} on Python {platform.python_version()}, {platform.platform()}"]
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        return [*lines, f"torch {torch.__version__}, {built}; no CUDA device: everything runs on the CPU"]
    lines.append(f"torch {torch.__version__}, CUDA {torch.version.cuda}")
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        lines.append(f"device {i}: {card.name}, {card.total_memory / 2**30:.0f} GiB, sm_{card.major}{card.minor}")
    return lines


def disk() -> str:
    """Free disk space in this folder."""
    free = shutil.disk_usage(".").free / 1e9
    needed = f"; `make repro` writes up to {NEEDED_GB} GB" if free < NEEDED_GB else ""
    return f"disk: {free:,.1f} GB free here{needed}"


def version_drift() -> list[str]:
    """In a checkout: the installed packages whose version is not that in constraints.txt."""
    path = Path("constraints.txt")
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = dict(line.strip().split("==") for line in lines if "==" in line and not line.startswith("#"))
    # Without the build after a +, as in 2.13.0+cpu.
    installed = {one.metadata["Name"].lower(): one.version.partition("+")[0] for one in metadata.distributions()}
    versions = {name: installed.get(name.lower(), pin) for name, pin in pins.items()}
    drifted = [f"{name} {versions[name]} (pinned {pin})" for name, pin in pins.items() if versions[name] != pin]
    differ = f"{len(drifted)} of {len(pins)} pins of {path} differ: {', '.join(drifted)}"
    return [f"packages: {differ if drifted else f'as {path}'}"]


def pipeline() -> list[str]:
    """In a checkout: the stages whose code, data or settings are not those that made their results, whose results are
    others, and whose results are not here."""
    if not Path("dvc.yaml").is_file():
        return []
    status = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], capture_output=True, text=True)
    if status.returncode:
        reason = status.stderr.strip() or "dvc says nothing"
        if "is busy" in reason:  # the line ends with a colon, before a list of processes
            reason = "a stage is running"
        return [f"pipeline: unknown ({reason.splitlines()[0]})"]
    stages = json.loads(status.stdout)
    newer, altered = ([name for name in stages if _changes(stages[name], outs)] for outs in (False, True))
    lines = []
    if newer:
        lines.append(f"pipeline: code, data or settings are not those that made the results, in {_named(newer)}")
        lines.append("  nothing is broken: the results here stand for what made them;")
        lines.append("  dvc status says what differs, make repro makes them anew")
    if altered:
        lines.append(f"pipeline: results are not as they were made, of {_named(altered)}; make repro makes them anew")
    if absent := len(stages.keys() - {*newer, *altered}):
        lines.append(f"pipeline: results of {counted(absent, 'stages')} are not here; make repro makes them")
    return lines or ["pipeline: all results are of this code and these settings"]


def _changes(of_stage: list[str | dict[str, dict[str, str]]], outs: bool) -> set[str]:
    """How the outputs of a stage differ in `dvc status`, or all else of it, but for missing files."""
    kinds = [{change: {"": change}} if isinstance(change, str) else change for change in of_stage]
    hows = {
        str(how)
        for kind in kinds
        for of, paths in kind.items()
        if (of == "changed outs") == outs
        for how in paths.values()
    }
    return hows - {"deleted", "not in cache"}


def _named(stages: list[str]) -> str:
    """How many stages, and the first of them: 7 stages: a, b, c, d, e, ..."""
    return f"{counted(len(stages), 'stages')}: {', '.join(stages[:5])}" + (", ..." if len(stages) > 5 else "")


def package_state(package: Package) -> tuple[str, str]:
    """The installed version, or "-", and whether the package can be imported."""
    try:
        version = metadata.version(package.name)
    except metadata.PackageNotFoundError:
        return "-", "not installed"
    if package.needs_cuda and not torch.cuda.is_available():
        return version, "idle: it needs a CUDA device"
    try:
        importlib.import_module(package.module)
    except Exception as error:  # a package built without its kernels raises whatever its loader raises
        return version, f"broken: {type(error).__name__}: {error}"
    return version, "works"


def packages() -> Table:
    """Optional packages: version, state and use."""
    rows = [(package.name, *package_state(package), package.serves) for package in PACKAGES]
    return table("Optional packages", ("package", "version", "state", "serves"), rows)


def backends() -> Table:
    """The backend of every op; a row more each if long windows, or sizes that a kernel does not take, use another."""
    rows, others = [], {f"above {WINDOW} tokens": describe(long=True), "other sizes": describe(beyond=True)}
    for op, choice in describe().items():
        rows.append((op, choice))
        rows += [(f"{op}, {which}", of[op]) for which, of in others.items() if of[op].backend != choice.backend]
    lines = [(name, used, "\n".join(f"{one}: {why}" for one, why in others.items())) for name, (used, others) in rows]
    return table("Backends", ("op", "uses", "why not the others"), lines)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of plain text."""
    report = Table(*(Column(name, overflow="fold") for name in header), title=title, title_justify="left")
    for row in rows:
        report.add_row(*map(escape, row))
    return report


def advice() -> list[str]:
    """What to install next."""
    if not torch.cuda.is_available():
        on_gpu = "On a machine with an NVIDIA GPU, `make install` adds the CUDA kernels."
        return [f"Nothing is missing for the CPU. {on_gpu}"]
    lines = []
    for package in PACKAGES:
        version, state = package_state(package)
        if state == "not installed":
            command = INSTALL[package.module]
            lines.append(f"{package.name} is missing; training works without it. Install it with: {command}")
        elif state != "works":
            again = f"{FROM_SOURCE} --force-reinstall --no-deps {package.name}"
            reason = "cannot be imported; it was probably built for another torch"
            lines.append(f"{package.name} {version} {reason}. Build it again: {again}")
    return lines or ["All kernels are in place."]
