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
from lmsleep.tensors import threads
from lmsleep.training.callbacks import SleepCallback, find_callback, sleep_settings
from lmsleep.training.optimizer import total_steps
from lmsleep.training.sharded import full_tensor
from lmsleep.windows import SleepSettings


def all_steps(trainer: L.Trainer) -> str:
    """How many optimizer steps a run has, those before a resume among them; ∞ if it has no end."""
    try:
        return f"{total_steps(trainer):,}"
    except ValueError:
        return "∞"


def summary(trainer: L.Trainer, data: RowsDataModule, model: HybridLM) -> str:
    """What a run trains: task; model, windows and passes; steps; backends; and at which step it goes on."""
    sleeps, device, total = sleep_settings(trainer), trainer.strategy.root_device.type, all_steps(trainer)
    windows = counted(-(-data.task.sequence_length // model.window_size), "windows")
    lines = [
        str(data.task),
        f"{model.config.pattern}, {parameters_in_words(model)}; {windows} of up to "
        f"{counted(model.window_size, 'tokens')}; {passes_in_words(sleeps)} ({sleeps.eviction} eviction)",
        f"{data.tokens_per_batch * trainer.accumulate_grad_batches:,} tokens a step, "
        f"{total} step{'' if total == '1' else 's'}; seed {data.seed}",
        f"backends: {backends_in_words(device)}{f' on {threads()}' if device == 'cpu' else ''}",
    ]
    return "\n".join([*lines, *([f"goes on at step {trainer.global_step:,} of {total}"] if trainer.ckpt_path else [])])


def parameters_in_words(model: HybridLM) -> str:
    """How many parameters a model has, and with adapters how many train."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{model.config.num_params():,} parameters" + (f" ({trained:,} train)" if model.lora else "")


def passes_in_words(sleeps: SleepSettings) -> str:
    """How many passes a sleep makes, or what sleeps in their place."""
    passes = sleeps.on_overflow or f"{sleeps.n_passes} pass{'es' if sleeps.n_passes > 1 else ''}"
    return passes + (f", {sleeps.wake_passes} of them awake in every window" if sleeps.wake_passes > 1 else "")


def backends_in_words(device: str) -> str:
    """The ops of each backend on a kind of device."""
    ops_by_backend: dict[str, list[str]] = {}
    for op, choice in describe(device).items():
        ops_by_backend.setdefault(choice.backend, []).append(op)
    if len(ops_by_backend) == 1:
        return f"{next(iter(ops_by_backend))} for every op"
    return "; ".join(f"{backend} for {', '.join(ops)}" for backend, ops in ops_by_backend.items())


class RunReport(L.Callback):
    """Prints task, model and settings at the start, and from which step a run goes on; logs tokens per second, sleeps
    per row, learning rates, the gradient norm before clipping and, after a validation or test, by how much each pass of
    a sleep changes S."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trains = False  # until the first step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trains = True
        data: RowsDataModule = trainer.datamodule  # pyright: ignore
        self.tokens_per_batch = data.tokens_per_batch
        rank_zero_info(summary(trainer, data, pl_module.model))  # pyright: ignore
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

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.since, self.batches = time.perf_counter(), 0

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.trains:
            rank_zero_info(f"nothing is left to train at step {trainer.global_step:,} of {all_steps(trainer)}")
