"""`dvc repro` with several cells of a grid at a time.

python -m lmsleep.pipeline.repro --jobs 2 fig2b

DVC runs stages one after another. This runs the data stages, the training cells and the evaluations that the targets
need side by side, each as its own `dvc repro --single-item`, then leaves the rest to `dvc repro`; both give the same
files. Threads are limited to one a job, without which jobs on a CPU slow each other down many times over.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

DVC = [sys.executable, "-m", "dvc"]
LOCKED = "Unable to acquire lock"  # another job holds DVC's lock for a moment
TRIES = 60
PROGRESS = ("Running stage", "runs/", "Stage '")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at a time (default: one a core)")
    parser.add_argument("targets", nargs="*", help="stages, such as fig2b (default: all)")
    args = parser.parse_args(argv)
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if args.jobs > 1 else dict(os.environ)
    if args.jobs > 1:
        for stages in plan(args.targets):
            print(f"{len(stages)} stages, {args.jobs} at a time", flush=True)
            if failed := side_by_side(stages, args.jobs, env):
                print(f"failed: {', '.join(failed)}", file=sys.stderr)
                return 1
    return repro(args.targets, env)


def side_by_side(stages: Sequence[str], jobs: int, env: dict[str, str]) -> list[str]:
    """Brings single stages up to date, `jobs` at a time; returns those that failed."""
    with ThreadPoolExecutor(jobs) as pool:
        codes = pool.map(lambda stage: repro(["-s", stage], env), stages)
        return [stage for stage, code in zip(stages, codes, strict=True) if code]


def plan(targets: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The data stages that the targets need, in the order of dvc.yaml; the training cells, those with most passes
    first: they take longest, and jobs that end together waste no core; and the evaluations."""
    names = []
    for target in targets or [None]:  # `dvc dag` takes one target
        command = [*DVC, "dag", "--dot", *([target] if target else [])]
        graph = subprocess.run(command, capture_output=True, text=True)
        if graph.returncode:
            sys.exit(graph.stderr.strip())
        lines = (line.strip() for line in graph.stdout.splitlines())
        names += [line.split('"')[1] for line in lines if line.startswith('"') and "->" not in line]
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    needed = sorted(dict.fromkeys(names), key=lambda name: list(stages).index(name.split("@")[0]))
    data, cells, evaluations = ([n for n in needed if n.startswith(kind)] for kind in ("data_", "train_", "evaluate_"))
    return data, sorted(cells, key=lambda name: -passes(name, stages)), evaluations


def passes(cell: str, stages: dict[str, Any]) -> int:
    """N of a training cell: its value of `n_passes`, or 1 where the grid has none."""
    stage, _, values = cell.partition("@")
    grid = dict(zip(stages[stage]["matrix"], values.split("-"), strict=True))
    return int(grid.get("n_passes", 1))


def repro(args: Sequence[str], env: dict[str, str]) -> int:
    """`dvc repro`, waiting while another job holds the lock. Passes on what says how far a stage is."""
    for _ in range(TRIES):
        code, said = run([*DVC, "repro", *args], env)
        if LOCKED not in said:
            if code:
                print(said, file=sys.stderr, flush=True)
            return code
        time.sleep(1)
    print(f"DVC's lock was held by another process for {TRIES} tries", file=sys.stderr)
    return 1


def run(command: Sequence[str], env: dict[str, str]) -> tuple[int, str]:
    """Exit code and all output of a command; lines that begin as in PROGRESS are printed as they come."""
    said = []
    with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdout is not None
        for line in child.stdout:
            said.append(line)
            if line.startswith(PROGRESS):
                print(line.rstrip(), flush=True)
    return child.returncode, "".join(said)


if __name__ == "__main__":
    sys.exit(main())
