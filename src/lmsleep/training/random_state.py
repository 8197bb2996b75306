"""The random numbers of a run that is resumed, or validated at other steps."""

from reprlib import repr as shortened
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lmsleep.training.checkpoint import pending_batches


class RandomState(L.Callback):
    """Restores torch's generators, before each training batch, to their state after the batch before.

    Validation and the start of a data loader draw random numbers too: without this a resumed run, or one that validates
    at other steps, would draw others than an uninterrupted one. It matters to models with dropout.
    """

    def __init__(self) -> None:
        self.states: dict[str, Tensor] = {}  # after the last batch
        self.saved: dict[str, Tensor] = {}  # after the last complete step, from which a resumed run continues
        self.disturbed = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.disturbed and self.states:
            torch.set_rng_state(self.states["cpu"])
            if pl_module.device.type == "cuda" and "cuda" in self.states:
                torch.cuda.set_rng_state(self.states["cuda"], pl_module.device)
        self.disturbed = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.states = {"cpu": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            self.states["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        if not pending_batches(trainer):
            self.saved = self.states

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.disturbed = True

    def state_dict(self) -> dict[str, Any]:
        return {"states": self.saved}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError if the checkpoint has no valid states of generators."""
        states = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("states")
        try:
            if states:
                torch.Generator().set_state(states["cpu"].cpu())
        except (AttributeError, KeyError, RuntimeError, TypeError):
            where = f"states in {self.state_key} in callbacks in checkpoint {str(trainer.ckpt_path)!r}"
            raise ValueError(f"{where} must be those of random numbers, got {shortened(states)}") from None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Generators take their state from the CPU.
        self.states = self.saved = {name: state.cpu() for name, state in state_dict["states"].items()}
        self.disturbed = True
