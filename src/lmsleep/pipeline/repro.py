"""`dvc repro` with several cells of a grid at a time.

python -m lmsleep.pipeline.repro --jobs 2 fig2b

DVC runs stages one after another. This runs the training cells that the targets need side by side, each as its own
`dvc repro --single-item`, then leaves the rest to `dvc repro`; both give the same files. Threads are limited to one a
job, without which jobs on a CPU slow each other down many times over.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
        first, cells = plan(args.targets)
        if first and repro(first, env):
            return 1
        print(f"{len(cells)} training cells, {args.jobs} at a time", flush=True)
        with ThreadPoolExecutor(args.jobs) as pool:
            failed = [
                c for c, code in zip(cells, pool.map(lambda c: repro(["-s", c], env), cells), strict=True) if code
            ]
        if failed:
            print(f"failed: {', '.join(failed)}", file=sys.stderr)
            return 1
    return repro(args.targets, env)


def plan(targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """The data stages and the training cells that the targets need, in the order of dvc.yaml."""
    names = []
    for target in targets or [None]:  # `dvc dag` takes one target
        command = [*DVC, "dag", "--dot", *([target] if target else [])]
        graph = subprocess.run(command, capture_output=True, text=True)
        if graph.returncode:
            sys.exit(graph.stderr.strip())
        lines = (line.strip() for line in graph.stdout.splitlines())
        names += [line.split('"')[1] for line in lines if line.startswith('"') and "->" not in line]
    order = list(yaml.safe_load(Path("dvc.yaml").read_text())["stages"])
    needed = sorted(dict.fromkeys(names), key=lambda name: order.index(name.split("@")[0]))
    return [n for n in needed if n.startswith("data_")], [n for n in needed if n.startswith("train_")]


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
