"""Stops on a loss or a gradient that is not finite, and saves the step for `lmsleep replay`."""

import shlex
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lmsleep.checks import checked, program
from lmsleep.tasks import Batch
from lmsleep.tensors import save_tensors
from lmsleep.training.callbacks import sleep_settings
from lmsleep.training.checkpoint import is_local
from lmsleep.training.graphs import Accelerate, HostCopy
from lmsleep.training.optimizer import MuonAdamW
from lmsleep.training.ranks import any_rank, require_targets
from lmsleep.training.sharded import sum_of_norms
from lmsleep.windows import IGNORE, SleepSettings

FOLDER_PREFIX, BATCHES, ENTRY = "nonfinite-", "batches.safetensors", "lmsleep.batches"


@dataclass(frozen=True)
class StepRecord:
    """What a training step depends on, besides its weights and batches."""

    step: int
    seed: int | None
    sleeps: SleepSettings
    precision: str
    accelerate: Accelerate
    checkpointing: bool
    accumulate_grad_batches: int
    device: str
    task: str  # as it is printed


class StopOnNonFinite(L.Callback):
    """Raises FloatingPointError when a loss or a gradient is not finite, ValueError if that is since a batch has no
    targets on any rank, and keeps the weights before that step.

    On a CPU it raises before the update. On CUDA, waiting for the result would leave the device idle in every step:
    there the optimizer skips its updates from that step on, and the error is raised when the result has arrived (with
    several ranks: one step later), at the latest before the next validation, checkpoint or end. A sharded model waits.

    Beside the checkpoint it writes a folder for `lmsleep replay`: the model before the step, as of
    `HybridLM.save_pretrained`, with the `StepRecord` in its config.json, and the batches. Each rank writes its own; a
    sharded model writes none.

    Args:
        first_step: number of the first step of this trainer, for messages.
    """

    MOST_PENDING = 32  # steps whose results have not arrived

    @checked
    def __init__(self, first_step: int = 0) -> None:
        self.first_step = first_step
        self.pending: deque[tuple[StepRecord, list[Batch], list[Tensor], HostCopy]] = deque()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pending.clear()
        self.spoiled: Tensor | None = None
        self.losses: list[Tensor] = []
        self.batches: list[Batch] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self.losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        trained = (p for group in optimizer.param_groups for p in group["params"])  # faster than a walk over modules
        grads = [p.grad for p in trained if p.grad is not None]
        values = torch.stack([torch.stack(self.losses).sum(), sum_of_norms(grads)])
        spoiled = ~torch.isfinite(values)
        waits = not spoiled.is_cuda or pl_module.device_mesh is not None or not isinstance(optimizer, MuonAdamW)
        if trainer.world_size > 1 and not waits:  # the loss of one rank
            spoiled = any_rank(spoiled)
        self.spoiled = spoiled if self.spoiled is None else self.spoiled | spoiled
        if isinstance(optimizer, MuonAdamW) and not waits:
            optimizer.skip_if(self.spoiled.any())
        self.pending.append((self._step(trainer, pl_module), self.batches, self.losses, HostCopy(self.spoiled)))
        self.losses, self.batches = [], []
        self._raise_for_arrived(trainer, pl_module, waits)

    def _step(self, trainer: L.Trainer, module: Any) -> StepRecord:
        return StepRecord(
            step=self.first_step + trainer.global_step,
            seed=getattr(trainer.datamodule, "seed", None),  # pyright: ignore[reportAttributeAccessIssue]
            sleeps=sleep_settings(trainer, module.training),
            precision=str(trainer.precision),
            accelerate=module.accelerate,
            checkpointing=module.model.blocks.checkpointing,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            device=module.device.type,
            task=str(module.task),
        )

    def _raise_for_arrived(self, trainer: L.Trainer, module: Any, wait: bool = False) -> None:
        alone = trainer.world_size == 1  # ranks must raise in the same step, whatever has arrived at one of them
        most = self.MOST_PENDING if alone else 1
        while self.pending and (wait or len(self.pending) > most or (alone and self.pending[0][-1].arrived)):
            step, batches, losses, spoiled = self.pending.popleft()
            of_loss, of_gradient = spoiled.value.tolist()
            if of_loss or of_gradient:
                for batch, loss in zip(batches, losses, strict=True):  # see `share_of_loss`
                    asked = (batch.targets != IGNORE).any() or loss.isfinite()
                    require_targets(bool(asked), module.task)
                value = "loss" if of_loss else "gradient"
                where = f"step {step.step} (n_passes={step.sleeps.n_passes}, seed={step.seed})"
                sentence = f"{value} is not finite at {where}; the weights are those before this step"
                raise FloatingPointError(sentence + _save_step(step, batches, trainer, module))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._raise_for_arrived(trainer, pl_module, wait=True)

    on_validation_start = on_train_end

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._raise_for_arrived(trainer, pl_module, wait=True)


def _save_step(step: StepRecord, batches: list[Batch], trainer: L.Trainer, module: Any) -> str:
    """Writes the folder, if the run keeps checkpoints. Returns the end of the error message."""
    beside = getattr(trainer.checkpoint_callback, "dirpath", None)
    if beside is None or not is_local(beside) or module.device_mesh is not None:
        return ""
    rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
    folder = Path(beside) / f"{FOLDER_PREFIX}step{step.step}{rank}"
    named = {f"{i}.{name}": x for i, batch in enumerate(batches) for name, x in batch._asdict().items()}
    trained = asdict(step)
    trained |= trained.pop("sleeps")  # beside the others, where a session and the model card look for them
    try:
        module.model.save_pretrained(folder, "The weights before a step that is not finite.", trained)
        save_tensors(folder / BATCHES, {name: x for name, x in named.items() if x is not None}, ENTRY, {})
    except OSError as error:
        return f"; they could not be written: {error}"
    return f"; to repeat it: {program()} replay {shlex.quote(str(folder))}"
