"""The report of a run."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from lmsleep.checks import counted
from lmsleep.data import RowsDataModule
from lmsleep.model import HybridLM
from lmsleep.ops.backend import describe
from lmsleep.training.callbacks import SleepCallback, find_callback, sleep_settings
from lmsleep.training.optimizer import total_steps
from lmsleep.training.sharded import full_tensor


def all_steps(trainer: L.Trainer) -> str:
    """How many optimizer steps a run has, those before a resume among them; ∞ if it has no end."""
    try:
        return f"{total_steps(trainer):,}"
    except ValueError:
        return "∞"


class RunReport(L.Callback):
    """Prints task, model and settings at the start, and from which step a run goes on; logs tokens per second, sleeps
    per row, learning rates, the gradient norm before clipping and, after a validation, by how much each pass of a sleep
    changes S."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trains = False  # until the first step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trains = True
        model: HybridLM = pl_module.model  # pyright: ignore
        data: RowsDataModule = trainer.datamodule  # pyright: ignore
        sleeps, task = sleep_settings(trainer), data.task
        self.tokens_per_batch = data.tokens_per_batch
        windows = -(-task.sequence_length // model.window_size)
        parameters = f"{model.config.num_params():,} parameters"
        if model.lora is not None:
            parameters += f" ({sum(p.numel() for p in model.parameters() if p.requires_grad):,} train)"
        passes = sleeps.on_overflow or f"{sleeps.n_passes} pass{'es' if sleeps.n_passes > 1 else ''}"
        if sleeps.wake_passes > 1:
            passes += f", {sleeps.wake_passes} of them awake in every window"
        ops_by_backend: dict[str, list[str]] = {}
        for op, choice in describe(pl_module.device.type).items():
            ops_by_backend.setdefault(choice.backend, []).append(op)
        backends = "; ".join(f"{backend} for {', '.join(ops)}" for backend, ops in ops_by_backend.items())
        if len(ops_by_backend) == 1:
            backends = f"{backends.split()[0]} for every op"
        n = torch.get_num_threads()
        total = all_steps(trainer)
        steps = "1 step" if total == "1" else f"{total} steps"
        several = f"; {n} threads (on busy cores a small model is faster with OMP_NUM_THREADS=1)"
        threads = several if n > 1 and pl_module.device.type == "cpu" else ""
        goes_on = f"\ngoes on at step {trainer.global_step:,} of {total}" if trainer.ckpt_path else ""
        rank_zero_info(
            f"{task}\n"
            f"{model.config.pattern}, {parameters}; {counted(windows, 'windows')} of up to "
            f"{counted(model.window_size, 'tokens')}; {passes} ({sleeps.eviction} eviction)\n"
            f"{self.tokens_per_batch * trainer.accumulate_grad_batches:,} tokens a step, {steps}; "
            f"seed {data.seed}\n"
            f"backends: {backends}{threads}{goes_on}"
        )
        self.since, self.batches = time.perf_counter(), 0

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if not every or (trainer.global_step + 1) % every:
            return
        norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        pl_module.log("grad_norm", full_tensor(norm))
        for group in optimizer.param_groups:
            pl_module.log("lr/muon" if group.get("muon") else "lr/adamw", group["lr"])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        self.batches += 1
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if every and (trainer.fit_loop.total_batch_idx + 1) % every == 0:
            now = time.perf_counter()
            speed = self.batches * self.tokens_per_batch / (now - self.since)
            pl_module.log("tokens_per_second", speed)
            if sleeper := find_callback(trainer, SleepCallback):
                pl_module.log("sleeps_per_row", sleeper.sleeps_per_sequence)
            self.since, self.batches = now, 0

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sleeper = find_callback(trainer, SleepCallback)
        for n, layers in enumerate(sleeper.change if sleeper else [], 2):
            if layers:  # none without fast weights
                pl_module.log(f"change_of_S/pass-{n}", sum(layers) / len(layers), rank_zero_only=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.since, self.batches = time.perf_counter(), 0

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.trains:
            rank_zero_info(f"nothing is left to train at step {trainer.global_step:,} of {all_steps(trainer)}")
