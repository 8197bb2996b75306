"""Programs in processes of their own, forked from one that has imported what they need and computed nothing."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from contextlib import chdir
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.learned"])


def start(
    *words: str, folder: Path, env: Mapping[str, str] = os.environ, output: str = os.devnull
) -> ForkServerProcess:
    """`python -m word ...` in a folder, which says what it says into a file or a terminal."""
    process = FORKS.Process(target=become, args=(words, folder, dict(env), output))
    with chdir(ROOT):  # where the process from which it is forked finds what it imports, should this be the first
        process.start()
    return process


def become(words: tuple[str, ...], folder: Path, env: dict[str, str], output: str) -> None:
    """Makes this process that program, on one core."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    place = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY)
    os.dup2(place, 1)
    os.dup2(place, 2)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
