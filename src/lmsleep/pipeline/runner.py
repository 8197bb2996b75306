"""Several cells side by side on one device, within a given time."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from lmsleep.pipeline.cells import LOG, Cell

LEAST_SECONDS = 30.0  # a cell is not started for less: starting takes about as long
SHOWN = 20  # lines of a failed cell


class Runner:
    """Trains cells, each in its own process.

    Args:
        jobs: cells at a time.
        until: Unix time at which training ends.
        reserve: seconds after `until`; a cell that is still there after half of them gets SIGTERM, after three
            quarters SIGKILL.
        pause_at_step: step at which a cell pauses.

    Attributes:
        signalled: the signal that ended the slice, or 0.
    """

    def __init__(self, jobs: int, until: float, reserve: float, pause_at_step: int | None) -> None:
        self.jobs, self.until, self.reserve, self.pause_at_step = jobs, until, reserve, pause_at_step
        self.signalled = 0
        self.waiting: deque[Cell] = deque()
        self.children: set[subprocess.Popen[str]] = set()
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()

    @contextmanager
    def heeding(self, *signals: signal.Signals) -> Iterator[None]:
        """Lets a signal end training, as the end of the time does but without a last validation."""

        def stop(number: int, frame: Any) -> None:
            self.signalled = number
            self._send(signal.SIGTERM)

        before = {number: signal.signal(number, stop) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def train(self, cells: Sequence[Cell]) -> dict[str, str]:
        """Trains the cells that are not finished or paused; returns what became of those that failed."""
        progress = {cell.name: cell.progress() for cell in cells}
        limit = self.pause_at_step or float("inf")
        todo = [c for c in cells if not progress[c.name].finished and progress[c.name].step < limit]
        self.waiting = deque(sorted(todo, key=lambda cell: progress[cell.name].step))
        left = self.until - time.time()
        timers = [
            threading.Timer(left + share * self.reserve, self._send, [number])
            for share, number in ((0.5, signal.SIGTERM), (0.75, signal.SIGKILL))
        ]
        try:
            for timer in timers:
                timer.start()
            with ThreadPoolExecutor(self.jobs) as pool:
                list(pool.map(lambda _: self._work(), range(self.jobs)))
        finally:
            for timer in timers:
                timer.cancel()
        return self.failed

    def _work(self) -> None:
        while True:
            with self.lock:
                left = self.until - time.time()
                if not self.waiting or left < LEAST_SECONDS or self.signalled:
                    return
                share = max(LEAST_SECONDS, left * min(1, self.jobs / len(self.waiting)))
                cell = self.waiting.popleft()
            self._fit(cell, min(self.until, time.time() + share))

    def _fit(self, cell: Cell, until: float) -> None:
        cell.folder.mkdir(parents=True, exist_ok=True)
        # One thread a cell: with more, sums would depend on how many cells run at a time.
        env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | os.environ
        said: deque[str] = deque(maxlen=SHOWN)
        command = fit_command(cell, until, self.pause_at_step)
        with (
            (cell.folder / LOG).open("a", buffering=1) as log,
            subprocess.Popen(
                command,
                env=env,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches it through us alone, and SIGKILL its data loaders too
            ) as child,
        ):
            self.children.add(child)
            if self.signalled:
                child.terminate()
            assert child.stdout is not None
            for line in child.stdout:
                log.write(line)
                if not line.startswith("frame #"):  # of C++, which would leave no room for the error itself
                    said.append(line)
                if line.startswith(f"{cell.name}: "):
                    print(line, end="", flush=True)
        self.children.discard(child)
        if child.returncode and not (self.signalled and child.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)):
            print(f"last lines of {cell.name}'s {LOG}:\n{''.join(said)}", file=sys.stderr, flush=True)
            self.failed[cell.name] = ended(child.returncode)

    def _send(self, number: int) -> None:
        for child in list(self.children):
            if child.poll() is None:
                # SIGTERM is for the trainer, which then saves; its data loaders end with it.
                os.killpg(child.pid, number) if number == signal.SIGKILL else child.send_signal(number)


def fit_command(cell: Cell, until: float, pause_at_step: int | None) -> list[str]:
    """`lmsleep fit` of a cell, from its checkpoint if there is one."""
    return [
        *(sys.executable, "-m", "lmsleep", "fit", *cell.args),
        f"--trainer.default_root_dir={cell.folder}",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        f"--checkpoint.dirpath={cell.folder}",
        "--trainer.callbacks+=lmsleep.training.LearningCurve",
        f"--trainer.callbacks.path={cell.folder / 'curve.csv'}",
        f"--trainer.callbacks.label={cell.name}",
        "--trainer.callbacks+=lmsleep.training.deadline.Deadline",
        f"--trainer.callbacks.until={until}",
        *([] if pause_at_step is None else [f"--trainer.callbacks.pause_at_step={pause_at_step}"]),
        *([f"--ckpt_path={cell.checkpoint}"] if cell.checkpoint.exists() else []),
    ]


def ended(code: int) -> str:
    """What an exit code says."""
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
