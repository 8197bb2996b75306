"""Run as a script: `lmsleep fit` in one process, and in two by each strategy; writes first gradients and last weights.

The processes are forked from this one, which has not computed anything yet, so that what they need is imported once.
"""

import os
import socket
import sys
import traceback
from pathlib import Path

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from lmsleep.cli import main

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


class Dump(L.Callback):
    """Writes whole gradients before the first step, and whole parameters at the end."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 0:
            self.write(trainer, pl_module, "gradients", lambda p: p.grad)

    def on_train_end(self, trainer, pl_module):
        self.write(trainer, pl_module, "weights", lambda p: p.detach())

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
            "--data.eval_rows=16",
            "--model.model.d_model=16",
            "--model.model.pattern=AGj",
            "--model.model.n_heads=2",
            "--model.model.zero_init=false",
            "--model.checkpointing=true",
            "--model.optimizer.warmup_steps=0",
            "--sleep.n_passes=3",
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


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fork(name: str, devices: int, flags: list[str]) -> None:
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
        status = 1
        try:
            run(name, devices, flags)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        sys.exit(f"{name} failed")


if __name__ == "__main__":
    for name, (devices, flags) in RUNS.items():
        fork(name, devices, flags)
