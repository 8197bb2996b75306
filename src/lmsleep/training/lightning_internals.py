"""Every use of Lightning's private parts: a new version of Lightning is looked at here alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import ModelParallelStrategy

Handler = Callable[..., None]  # of a signal and a frame


class PlainCLI(LightningCLI):
    """LightningCLI whose settings come from its arguments alone."""

    def _parse_ckpt_path(self) -> None:
        """Takes no settings from a checkpoint. Without this its hyper_parameters would go before the arguments."""


class GuardedCheckpoint(ModelCheckpoint):
    """ModelCheckpoint all of whose saves are within a `guard`, a context made of the trainer. Without this an error of
    the rank that writes would leave the others waiting for it."""

    guard: Callable[[L.Trainer], AbstractContextManager]

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        with self.guard(trainer):
            super()._save_checkpoint(trainer, filepath)

    def save_now(self, trainer: L.Trainer) -> None:
        """Saves, unless this step is saved. Without this what was trained since the last validation would be lost."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def has_last_checkpoint(trainer: L.Trainer) -> bool:
    """Whether the trainer finds a checkpoint that `last` names. Without this it would score random weights."""
    keepers = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    return any(one._find_last_checkpoints(trainer) for one in keepers)


def saves_shards(trainer: L.Trainer) -> bool:
    """Whether checkpoints are folders of shards. Without this a sharded run would leave what no command reads."""
    return getattr(trainer.strategy, "_save_distributed_checkpoint", False)


def look_before_loading(strategy: ModelParallelStrategy, look: Callable[[str | Path], None]) -> None:
    """Calls `look` with the path of a checkpoint before the strategy reads it. Without this nobody would: a strategy of
    sharded models asks neither the checkpoint IO nor the module."""
    if "load_checkpoint" in vars(strategy):  # done already
        return
    load = strategy.load_checkpoint

    def look_first(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        look(checkpoint_path)
        return load(checkpoint_path, weights_only=True)

    strategy.load_checkpoint = look_first


def handle_requeue(trainer: L.Trainer, handle: Handler) -> None:
    """Handles SLURM's signal to requeue. Without this Lightning would save wherever the signal finds the process,
    within an update too, and could deadlock with other processes."""
    trainer._signal_connector._slurm_sigusr_handler_fn = handle


def handle_sigterm(trainer: L.Trainer, hear: Handler, agree: Callable[[], None]) -> None:
    """Calls `hear` where SIGTERM finds a rank, and `agree` on every rank after each batch. To be called before the
    trainer registers its handlers. Without this Lightning would start a collective in its handler, while the other
    ranks are in another one."""
    trainer._signal_connector._sigterm_notifier_fn = hear
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = agree


def stop_at_sigterm(trainer: L.Trainer, stop: bool) -> None:
    """Whether the trainer stops by itself. Without this ranks would stop after different batches."""
    trainer._signal_connector.received_sigterm = stop


def repeat_validation(trainer: L.Trainer) -> None:
    """Counts the validation that was stopped as one in its first batch: a resumed run repeats no other. Without this
    its curve would lack a point."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.reset()
    progress.increment_ready()
    progress.increment_started()


def await_validation(checkpoint: dict[str, Any]) -> None:
    """Makes a checkpoint of the end of a training batch one of the first batch of the validation behind it, if there is
    one. Without this a resumed run would skip that validation, and its curve would lack a point."""
    loops = checkpoint["loops"]["fit_loop"]
    read, validated = (loops[f"epoch_loop.{name}batch_progress"] for name in ("", "val_loop."))
    if read["total"]["completed"] < read["total"]["processed"]:
        for counts in (read["total"], read["current"]):
            counts["completed"] += 1
        started = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        validated |= {"total": started, "current": dict(started)}


def number_metrics(trainer: L.Trainer) -> None:
    """Numbers what a training step logs by the steps before it. Without this a run that goes on from a checkpoint made
    by a validation, where it makes none itself, would number all by one too low."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def uncount_batches(checkpoint: dict[str, Any], n: int) -> None:
    """Takes the last `n` training batches off the counts in a checkpoint, so that they are read again. Without this the
    gradients of an incomplete step, which are in no checkpoint, would be lost."""
    loops = checkpoint["loops"]["fit_loop"]
    progress, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]["current"]
    if epochs["completed"] == epochs["ready"]:  # or Lightning would take the first batch of an epoch for its last
        progress["current"] = dict.fromkeys(progress["current"], 0)
        n = 0
    for counts in (progress["total"], progress["current"]):
        for name in counts:
            counts[name] -= n
