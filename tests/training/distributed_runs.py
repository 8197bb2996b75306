"""Run as a program: `lmsleep fit` in one process, and in two by each strategy; writes first gradients and last weights.
Then in two of which one is told to end, or cannot write, or none has a target; writes to <run>.ends with which code and
sentence each ended.

The processes are forked from this one, which has not computed anything yet, so that what they need is imported once.
"""

import errno
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from lmsleep import HybridConfig
from lmsleep.atomic import lock_folder
from lmsleep.cli import main
from lmsleep.hub import tokenizer_files
from lmsleep.tasks import IGNORE, Depo

OUT = Path(sys.argv[1])
SHARDED = "lightning.pytorch.strategies.ModelParallelStrategy"
RUNS = {
    "one": (1, []),
    "ddp": (2, ["--trainer.strategy=ddp"]),
    "sharded": (
        2,
        [
            f"--trainer.strategy={SHARDED}",
            "--trainer.strategy.data_parallel_size=2",
            "--trainer.strategy.tensor_parallel_size=1",
        ],
    ),
}
UNEVEN = [  # the first row has loss in the third window, the second, on another rank, in the fourth too
    "--data.task.max_nodes=4",
    "--data.task.question_length=36",
    "--data.batch_size=2",
    "--data.eval_rows=2",
    "--data.seed=1",
    "--sleep.n_passes=2",
    "--trainer.max_steps=1",
    "--trainer.val_check_interval=1",
]
HALF = [  # the rows of rank 1 have no targets; the last window is short
    "--data.task=distributed_runs.HalfAsked",
    "--data.task.graph_length=48",
    "--data.task.window_size=24",
]
LONG_ENOUGH = 60  # seconds, after which a process that has not ended hangs


def checkpoints(name: str) -> list[str]:
    """Flags of a run of 4 steps of two batches each that keeps checkpoints; how it learns is nothing to it."""
    return [
        "--sleep.n_passes=1",
        "--model.checkpointing=false",
        "--trainer.strategy=ddp",
        "--trainer.enable_checkpointing=true",
        f"--checkpoint.dirpath={OUT / name}",
        "--trainer.max_steps=4",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.val_check_interval=4",
    ]


def full_disk(from_save: int) -> Callable[..., None]:
    """torch.save that finds no space from a checkpoint on."""
    whole, saves = torch.save, []

    def save(content, file):
        saves.extend([file] if "global_step" in content else [])
        if len(saves) >= from_save:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(content, file)

    return save


@dataclass(frozen=True)
class HalfAsked(Depo):
    """Every second row has no targets."""

    def rows(self, **which):
        batch = super().rows(**which)
        batch.targets[1::2] = IGNORE
        return batch


@dataclass(frozen=True)
class Unasked(Depo):
    """The rows of a later batch have no targets; the first is looked at before a run."""

    def rows(self, *, step, **which):
        batch = super().rows(step=step, **which)
        if step == 2:
            batch.targets[:] = IGNORE
        return batch


class Terminate(L.Callback):
    """One rank is sent SIGTERM within the first batch of the second step."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.fit_loop.total_batch_idx == 2 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


class Dump(L.Callback):
    """Writes whole gradients before the first step, and whole parameters and what was logged at the end."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 0:
            self.write(trainer, pl_module, "gradients", lambda p: p.grad)

    def on_train_end(self, trainer, pl_module):
        self.write(trainer, pl_module, "weights", lambda p: p.detach())
        logged = {name: trainer.callback_metrics[name].item() for name in ("train/loss", "train/exact")}
        if trainer.is_global_zero:
            Path(f"{self.path}.logged").write_text(json.dumps(logged))

    def write(self, trainer, module, what, value):
        whole = {}
        for name, p in module.model.named_parameters():
            part = value(p)
            whole[name] = (part.full_tensor() if isinstance(part, DTensor) else part).clone()
        if trainer.is_global_zero:
            torch.save(whole, f"{self.path}.{what}")


def run(name: str, devices: int, flags: list[str]) -> None:
    main(
        [
            "fit",
            "--data.task=lmsleep.tasks.Depo",  # cycles of any length: rows, and so ranks, differ in their targets
            "--data.task.min_nodes=2",
            "--data.task.max_nodes=3",
            "--data.task.max_hops=2",
            "--data.task.test_hops=[1,2]",
            "--data.task.graph_length=36",
            "--data.task.question_length=18",
            "--data.task.window_size=18",
            "--data.batch_size=8",
            "--data.eval_rows=8",
            "--data.eval_batch_size=4",
            "--model.model.d_model=16",
            "--model.model.pattern=AGj",
            "--model.model.n_heads=2",
            "--model.model.zero_init=false",
            "--model.checkpointing=true",
            "--model.optimizer.warmup_steps=0",
            "--sleep.n_passes=2",
            "--trainer.accelerator=cpu",
            f"--trainer.devices={devices}",
            "--trainer.max_steps=2",
            "--trainer.val_check_interval=2",
            "--trainer.check_val_every_n_epoch=null",
            "--trainer.num_sanity_val_steps=0",
            "--trainer.logger=false",
            "--trainer.enable_checkpointing=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.callbacks=distributed_runs.Dump",
            f"--trainer.callbacks.path={OUT / name}",
            *flags,
        ]
    )


def tune(name: str, devices: int, flags: list[str]) -> None:
    """`lmsleep finetune`, on rows of one to three windows."""
    given = {
        "model": "model",
        "data": "train.jsonl",
        "out": name,
        "steps": 2,
        "window": 48,
        "n_passes": 2,
        "data.eval_batch_size": 2,
    }
    given |= {"trainer.accelerator": "cpu", "trainer.devices": devices, "trainer.enable_progress_bar": "false"}
    main(["finetune", *(f"--{option}={value}" for option, value in given.items()), *flags])


def prepare() -> None:
    """What `tune` needs, by a process that is not this one."""
    torch.manual_seed(0)
    model = HybridConfig(vocab_size=257, d_model=16, pattern="AGj", n_heads=2, window_size=48, zero_init=False).build()
    model.save_pretrained("model", files=tokenizer_files("bytes"))
    rows = [{"context": f"The wren has {i} eggs. " * (1 + i % 5), "question": "Eggs?", "answer": i} for i in range(40)]
    Path("train.jsonl").write_text("\n".join(map(json.dumps, rows)))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fork(run: Callable[..., None], name: str, devices: int, flags: list[str]) -> list[tuple[int | None, str]]:
    """Exit code and last words of every process; None: it did not end."""
    port = free_port()
    children = []
    for rank in range(devices):
        if child := os.fork():
            children.append(child)
            continue
        if devices > 1:  # what torchrun would set
            names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
            values = (rank, rank, 0, devices, devices, port)
            os.environ |= {n: str(v) for n, v in zip(names, values, strict=True)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
        status, said = 1, ""
        try:
            run(name, devices, flags)
            status = 0
        except SystemExit as end:
            status, said = (end.code, "") if isinstance(end.code, int) else (1, str(end.code))
        except BaseException:
            said = traceback.format_exc()
        finally:
            (OUT / f"{name}.said{rank}").write_text(said)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    ends, deadline = [], time.monotonic() + LONG_ENOUGH
    for rank, child in enumerate(children):
        while not (end := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        if not end[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ends.append((None, ""))
        else:
            said = OUT / f"{name}.said{rank}"
            ends.append((os.waitstatus_to_exitcode(end[1]), said.read_text() if said.exists() else ""))
    return ends


def must_end_well(run: Callable[..., None], name: str, devices: int, flags: list[str]) -> None:
    ends = fork(run, name, devices, flags)
    if any(status for status, _ in ends):
        sys.exit(f"{name} failed: {ends}")


def ended(name: str, flags: list[str]) -> None:
    """Writes how a run of two processes ended."""
    (OUT / f"{name}.ends").write_text(json.dumps(fork(run, name, 2, [*checkpoints(name), *flags])))


if __name__ == "__main__":
    must_end_well(lambda *_: prepare(), "prepare", 1, [])
    for name, (devices, flags) in RUNS.items():
        must_end_well(run, name, devices, flags)
        must_end_well(tune, f"tuned-{name}", devices, flags)
        must_end_well(run, f"half-{name}", devices, [*flags, *HALF])
        if name != "ddp":  # under which a rank sleeps where only another's row has loss
            must_end_well(run, f"uneven-{name}", devices, [*flags, *UNEVEN])
    for rank in (0, 1):
        callback = "--trainer.callbacks+=distributed_runs.Terminate"
        ended(f"stopped{rank}", [callback, f"--trainer.callbacks.rank={rank}"])
    ended("unasked", ["--data.task=distributed_runs.Unasked"])
    (OUT / "locked").mkdir()
    with lock_folder(OUT / "locked"):
        ended("locked", [])
    whole = torch.save
    for name, from_save in (("full", 1), ("filled", 3)):  # the first looks whether it can save
        torch.save = full_disk(from_save)
        ended(name, [])
        torch.save = whole
