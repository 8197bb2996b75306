"""Two tasks as `srun` would start them, with a stand-in for `scontrol`."""

import multiprocessing
import os
import signal
import socket

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lmsleep.training import LastCheckpoint


class Signal(L.Callback):
    """Sends a signal to this task within the update of a step, at which a checkpoint would be torn."""

    def __init__(self, signum):
        self.signum = signum

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 2:
            os.kill(os.getpid(), self.signum)


@pytest.fixture
def job(run, tmp_path, monkeypatch):
    """job(folder, *callbacks, **options): exit codes of both tasks of a job that keeps its checkpoints there."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings = {"JOB_ID": 4321, "JOB_NAME": "sleep", "NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "NODEID": 0}
        for name, value in settings.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    def task(rank, folder, callbacks, ckpt_path):
        os.environ |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        saver = LastCheckpoint(str(tmp_path / folder))
        cell = run(2, [*callbacks, saver], devices=2, strategy="ddp", enable_checkpointing=True)
        try:
            cell.trainer.fit(cell.module, cell.data, ckpt_path=ckpt_path)
        except SIGTERMException:
            os._exit(143)

    def job(folder, *callbacks, ckpt_path=None):
        fork = multiprocessing.get_context("fork")
        tasks = [fork.Process(target=task, args=(rank, folder, callbacks, ckpt_path)) for rank in (0, 1)]
        for one in tasks:
            one.start()
        for one in tasks:
            one.join(timeout=60)
            one.kill()  # if it hangs
        return [one.exitcode for one in tasks]

    return job


@pytest.mark.parametrize(("signum", "asked"), [(signal.SIGUSR1, "requeue 4321\n"), (signal.SIGTERM, "")])
def test_slurms_signal_ends_both_tasks_with_a_checkpoint_from_which_the_requeued_job_goes_on(
    job, tmp_path, signum, asked
):
    def saved(folder):
        return torch.load(tmp_path / folder / "last.ckpt", weights_only=True)

    assert job("cut", Signal(signum), ckpt_path="last") == [143, 143]  # there is none yet
    assert saved("cut")["global_step"] == 4  # ranks hear of it a batch later
    found = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert found == asked
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    assert job("cut", ckpt_path="last") == job("whole") == [0, 0]
    resumed, whole = (saved(folder)["state_dict"] for folder in ("cut", "whole"))
    assert all(torch.equal(resumed[name], x) for name, x in whole.items())
