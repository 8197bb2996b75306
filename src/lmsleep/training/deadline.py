"""Callbacks for runs that pause: the end of a slice, and random numbers that do not depend on where a run pauses."""

import math
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor


class Deadline(L.Callback):
    """Ends training after the first optimizer step at or past a time or a step, with a last validation.

    There is one after `trainer.max_steps` too, which need not be a multiple of the interval. The learning-rate
    schedule does not know of other ends: it goes by `trainer.max_steps`.

    Args:
        until: Unix time in seconds.
        pause_at_step: optimizer steps; None: no such end.

    Raises:
        ValueError: if pause_at_step is below 1.
    """

    def __init__(self, until: float = math.inf, pause_at_step: int | None = None) -> None:
        if pause_at_step is not None and pause_at_step < 1:
            raise ValueError(f"pause_at_step must be 1 or more, got {pause_at_step}")
        self.until, self.pause_at_step = until, pause_at_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        batches = trainer.fit_loop.total_batch_idx + 1  # pyright: ignore[reportAttributeAccessIssue]
        if batches % trainer.accumulate_grad_batches:
            return  # a checkpoint does not hold gradients that still add up
        ends = [step for step in (self.pause_at_step, trainer.max_steps) if step is not None and step >= 0]
        if any(trainer.global_step >= step for step in ends) or time.time() >= self.until:
            trainer.should_stop = True  # Lightning then validates before it ends


class RandomState(L.Callback):
    """Lets torch's generators go on, at each training batch, from where the batch before left them.

    Validation and the start of a data loader draw random numbers too. Without this a resumed run, and one that
    validates at other steps, would draw others than a run in one go; it matters to models with dropout.
    """

    def __init__(self) -> None:
        self.states: dict[str, Tensor] = {}
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

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.disturbed = True

    def state_dict(self) -> dict[str, Any]:
        return {"states": self.states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Generators take their state from the CPU, wherever the checkpoint was loaded to.
        self.states = {name: state.cpu() for name, state in state_dict["states"].items()}
        self.disturbed = True
