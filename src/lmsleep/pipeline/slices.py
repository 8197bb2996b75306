r"""Trains the cells of a grid for a given wall time, on machines that are there for some minutes at a time.

lmsleep slices --seconds 500 --jobs 4 --out slices/1 --config configs/experiment/paper/rule110.yaml \
    --grid n:sleep.n_passes=1,2,3,4 --grid s:seed_everything,data.seed=0
lmsleep slices --seconds 500 --jobs 4 --out slices/2 --resume slices/1

Every cell is an `lmsleep fit` of its own, with all that it said in log.txt; arguments that are not listed below go to
all of them. What `--out` holds goes on, bit for bit, on any machine of the same kind: slices change neither weights,
optimizer state, learning-rate schedule (which goes by --trainer.max_steps) nor the order of the data. A slice that ends
between two validations adds a validation, and a row to the curve. With fewer jobs than cells, cells get equal shares of
the time, those that are furthest behind first.
"""

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lmsleep.atomic import atomic_write
from lmsleep.errors import one_sentence
from lmsleep.pipeline.cells import Cell, Progress, config_digests, grid_cells, report, table
from lmsleep.pipeline.parts import export, inside, restore
from lmsleep.pipeline.runner import LEAST_SECONDS, Runner

SUMMARY = "summary.json"
Summary = dict[str, Any]


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of a slice, and those that go to `lmsleep fit`."""
    parser = argparse.ArgumentParser(
        "lmsleep slices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--grid", action="append", default=[], help="label:key[,key...]=value,...; several span a grid")
    add("--resume", type=Path, nargs="+", default=[], help="folders of earlier slices, whose cells go on")
    add("--out", type=Path, required=True, help="new folder for state, curves.csv and summary.json")
    add("--runs", type=Path, help="folder to keep the run folders in (default: a temporary one)")
    add(
        "--seconds",
        type=float,
        required=True,
        help="wall time, from when Python has imported the command; 0: restore, report, export",
    )
    add("--reserve", type=float, default=40, help="seconds of it for last validations, saving and export (default: 40)")
    add("--pause-at-step", type=int, help="leave the device to slower cells from this step on")
    add("--jobs", type=int, default=1, help="cells at a time on the device (default: 1)")
    add("--part-mb", type=float, default=15, help="largest file, in 10^6 bytes (default: 15)")
    add("--bundle", action="store_true", help="state of all cells as one archive, in as few files as possible")
    add("--finished", choices=("all", "weights", "none"), default="all", help="state to export of finished cells")
    add("--commit", help="git commit to record, where there is no repository")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a slice; exits with 1 if a cell failed and 143 if SIGTERM ended it, having exported what there is.

    Raises:
        SystemExit: with one sentence, for a bad argument or a damaged export.
    """
    started = time.time()
    args, fit_args = parse(argv)
    command = shlex.join(["lmsleep", "slices", *(sys.argv[2:] if argv is None else argv)])
    with one_sentence():
        check(args)
        with tempfile.TemporaryDirectory(prefix="lmsleep-slices-") as temporary:
            runs = (args.runs or Path(temporary) / "runs").resolve()
            code = run_slice(args, fit_args, runs, Path(temporary), command, started)
    if code:
        sys.exit(code)


def check(args: argparse.Namespace) -> None:
    """Raises ValueError if an argument is out of range."""
    for name, low in (("seconds", 0), ("reserve", 0), ("jobs", 1), ("part_mb", 1e-3), ("pause_at_step", 1)):
        value = getattr(args, name)
        if value is not None and not value >= low:
            raise ValueError(f"{name} must be {low:g} or more, got {value:g}")
    if args.seconds and args.seconds - args.reserve < LEAST_SECONDS:
        raise ValueError(
            f"seconds must be 0 or at least {LEAST_SECONDS:g} more than the reserve of {args.reserve:g}, "
            f"got {args.seconds:g}"
        )
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ValueError(f"out must be a new or an empty folder, got {str(args.out)!r}")


def run_slice(
    args: argparse.Namespace, fit_args: list[str], runs: Path, temporary: Path, command: str, started: float
) -> int:
    """Restores, trains, reports and exports; returns the exit code."""
    runner = Runner(args.jobs, started + args.seconds - args.reserve, args.reserve, args.pause_at_step)
    with runner.heeding(signal.SIGTERM, signal.SIGINT):
        summary = collect(args.resume, runs)
        cells = plan(summary, args.grid, fit_args, runs)
        progress = {cell.name: cell.progress() for cell in cells}
        before = {name: now.step for name, now in progress.items()}
        runs.mkdir(parents=True, exist_ok=True)
        write_json(runs / SUMMARY, summary | report(cells, progress))
        failed = runner.train(cells)
        progress = {cell.name: cell.progress() for cell in cells}
        summary |= report(cells, progress)
        this = {
            "command": command,
            "commit": args.commit or commit(),
            "device": device(cells),
            "torch": torch.__version__,
            "seconds": round(time.time() - started, 1),
            "steps": {name: [step, progress[name].step] for name, step in before.items()},
            "failed": failed,
        }
        summary["slices"].append(this)
        print(table(summary, failed), flush=True)
        write_json(runs / SUMMARY, summary)
        write(summary, cells, progress, args, temporary / "export")
    for name, reason in failed.items():
        kept = "what is exported is its last checkpoint" if progress[name].step else "it has no checkpoint yet"
        print(f"{name} failed: {reason}; {kept}", file=sys.stderr)
    paused = args.pause_at_step or float("inf")
    if args.seconds and not runner.signalled:
        for name, now in progress.items():
            if now.step == before[name] < paused and not now.finished and name not in failed:
                print(f"{name}: no step was taken in the time there was", file=sys.stderr)
    return 128 + runner.signalled if runner.signalled else int(bool(failed))


def collect(exports: Sequence[Path], runs: Path) -> Summary:
    """What was done before: in the run folders, and in the exports, which are restored there.

    Raises:
        ValueError: if an export is damaged, or holds a cell that is there already.
    """
    summary: Summary = {"cells": {}, "configs": {}, "slices": []}
    if (runs / SUMMARY).exists():
        summary |= json.loads((runs / SUMMARY).read_text())
    for folder in exports:
        try:
            more = json.loads((folder / SUMMARY).read_text())
            cells, files = more["cells"], more["files"]
        except (OSError, KeyError, TypeError, json.JSONDecodeError):
            raise ValueError(f"resume must name folders that `lmsleep slices` wrote, got {str(folder)!r}") from None
        twice = [name for name in cells if name in summary["cells"]]
        if twice:
            raise ValueError(f"cell {twice[0]} of {folder} is there already; resume it from one place")
        with tempfile.TemporaryDirectory(prefix="lmsleep-restore-") as scratch:
            restore(files, folder, Path(scratch))
            for name, entry in cells.items():
                Cell(name, entry["args"], inside(runs, name)).unpack(inside(Path(scratch), name))
        for key in ("cells", "configs"):
            summary[key] |= more[key]
        summary["slices"] += more["slices"]
    return summary


def plan(summary: Summary, grid: Sequence[str], fit_args: Sequence[str], runs: Path) -> list[Cell]:
    """The cells there are, and those of the grid.

    Raises:
        ValueError: if there are none, or one goes on under other arguments or configuration files.
    """
    if fit_args and not grid:
        raise ValueError(f"arguments of new cells need a grid, which resumed cells bring along, got {fit_args[0]!r}")
    cells = {name: Cell(name, entry["args"], runs / name) for name, entry in summary["cells"].items()}
    for cell in grid_cells(grid, fit_args, runs):
        known = cells.setdefault(cell.name, cell)
        if known.args != cell.args:
            old, new = shlex.join(known.args), shlex.join(cell.args)
            raise ValueError(f"cell {cell.name} must go on with the arguments `{old}`, got `{new}`")
    if not cells:
        raise ValueError("grid or resume must be given, got neither")
    for cell in cells.values():
        for path, digest in config_digests(cell.args).items():
            if summary["configs"].setdefault(path, digest) != digest:
                raise ValueError(f"{path} must be as it was when its cells began, but has changed")
    return list(cells.values())


def write(
    summary: Summary, cells: Sequence[Cell], progress: dict[str, Progress], args: argparse.Namespace, staged: Path
) -> None:
    """Writes the export, summary.json last; leaves nothing behind where that fails."""
    out: Path = args.out
    there = out.exists()
    try:
        for cell in cells:
            finished = progress[cell.name].finished
            state = not finished or args.finished != "none"
            cell.pack(staged / cell.name, state, optimizer=not finished or args.finished == "all")
        out.mkdir(parents=True, exist_ok=True)
        files = export(staged, out, int(args.part_mb * 1e6), args.bundle)
        rows = [{"cell": name, **row} for name, now in progress.items() for row in now.rows]
        pd.DataFrame(rows).to_csv(out / "curves.csv", index=False)
        write_json(out / SUMMARY, summary | {"files": files})
    except BaseException:
        for path in out.iterdir() if out.exists() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if out.exists() and not there:
            out.rmdir()
        raise
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    print(f"{out}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, largest {max(sizes) / 1e6:.1f} MB", flush=True)


def write_json(path: Path, content: Summary) -> None:
    """The file, there whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def commit() -> str | None:
    """The commit of the code, with -dirty where it was changed since; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def device(cells: Sequence[Cell]) -> str:
    """The device on which the cells trained."""
    accelerators = {config["trainer"]["accelerator"] for cell in cells if (config := cell.config())}
    return torch.cuda.get_device_name() if torch.cuda.is_available() and accelerators != {"cpu"} else "cpu"


if __name__ == "__main__":
    main()
