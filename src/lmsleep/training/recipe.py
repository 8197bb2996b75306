"""Training recipes: the warm-up stage of section 6.4, and a random N for every batch."""

import re
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from lmsleep.checks import checked, counted, require
from lmsleep.model import HybridLM
from lmsleep.training.callbacks import Recipe, SleepCallback, find_callback
from lmsleep.training.resume import check_as_trained
from lmsleep.windows import Eviction


class WarmupStage(Recipe):
    """Trains only some parameters for the first steps, under an eviction of their own; then the whole model.

    With a sliding attention cache, inserted fast-weight layers tend to stay unused. Under hard eviction they are the
    only memory, and are learnt before the rest adapts: the paper calls that crucial for N > 1. Its baseline, N = 1,
    warms up under the sliding cache. Validation always uses the eviction of the `SleepCallback`. A run resumes within
    the stage, and only with the same one.

    Args:
        steps: optimizer steps of the stage.
        train: regular expression that names of the parameters to train contain; None: mixers with fast weights and the
            norms before them.
        eviction: of training batches in the stage, `hard` or `sliding`; None: hard if windows sleep, and that of the
            `SleepCallback` if N = 1.

    Raises:
        ValueError: if steps is below 1, `train` is no regular expression or matches no parameter, the eviction is
            unknown; on resuming with another stage.
    """

    @checked
    def __init__(self, steps: int, train: str | None = None, eviction: Eviction | None = None) -> None:
        require(steps >= 1, "steps of the warm-up stage must be 1 or more", steps)
        try:
            self.pattern = None if train is None else re.compile(train)
        except re.error as error:
            raise ValueError(
                f"train of the warm-up stage must be a regular expression, got {train!r}: {error}"
            ) from None
        self.steps, self.train = steps, train
        self.eviction: Eviction | None = eviction

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sleeper = find_callback(trainer, SleepCallback)
        if sleeper is None:
            raise ValueError("callbacks must hold a SleepCallback beside a WarmupStage, got none")
        self.sleeper = sleeper
        model: HybridLM = pl_module.model  # pyright: ignore[reportAssignmentType]
        trained = self.trained(model)
        self.frozen = [p for name, p in model.named_parameters() if name not in trained]
        self.was_trainable = [p.requires_grad for p in self.frozen]
        if self.running(trainer):
            count = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in self.frozen)
            eviction = self.stage_eviction(self.sleeper)
            rank_zero_info(
                f"warm-up: {count:,} parameters train for {counted(self.steps, 'steps')} ({eviction} eviction)"
            )

    def trained(self, model: HybridLM) -> set[str]:
        """Names of the parameters that train in the stage. Raises ValueError if there are none."""
        names = [name for name, _ in model.named_parameters()]
        if self.pattern is not None:
            trained = {name for name in names if self.pattern.search(name)}
        else:
            parts = [f"blocks.layers.{i}.{part}." for i in model.blocks.state_index for part in ("mixer", "mixer_norm")]
            trained = {name for name in names if name.startswith(tuple(parts))}
        if not trained:
            raise ValueError(
                f"train of the warm-up stage must match the name of a parameter, got {self.train!r}, which matches none"
            )
        return trained

    def stage_eviction(self, sleeper: SleepCallback) -> Eviction:
        """The eviction of training batches in the stage."""
        return self.eviction or ("hard" if sleeper.settings().sleeps else sleeper.eviction)

    def running(self, trainer: L.Trainer) -> bool:
        """Whether the next step belongs to the stage."""
        return trainer.global_step < self.steps

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        running = self.running(trainer)
        self.sleeper.training_eviction = self.stage_eviction(self.sleeper) if running else None
        # Without gradients the frozen ones cost less, but DDP fixes at the start which parameters have gradients.
        if trainer.world_size == 1:
            for p, trainable in zip(self.frozen, self.was_trainable, strict=True):
                p.requires_grad_(trainable and not running)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Drops the gradients of frozen parameters before clipping."""
        if self.running(trainer):
            for p in self.frozen:
                p.grad = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.sleeper.training_eviction = None
        for p, trainable in zip(self.frozen, self.was_trainable, strict=True):
            p.requires_grad_(trainable)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "train": self.train, "eviction": self.eviction}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if the checkpoint was trained with another stage."""
        for name, trained in state_dict.items():
            check_as_trained(f"{name} of the warm-up stage", trained, getattr(self, name))


class DrawPasses(Recipe):
    """Draws N for every training batch, uniformly from `fewest` to that of the `SleepCallback`, by the data seed and
    the step, so that ranks and resumed runs agree. Raises ValueError if `fewest` is not between 1 and N, or another on
    resuming, or steps are CUDA graphs, which have a fixed N."""

    @checked
    def __init__(self, fewest: int = 1) -> None:
        self.fewest = fewest

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sleeper = find_callback(trainer, SleepCallback)
        most = 1 if sleeper is None else sleeper.n_passes
        if sleeper is None or not 1 <= self.fewest <= most:
            raise ValueError(f"fewest must be between 1 and n_passes={most} of a SleepCallback, got {self.fewest}")
        accelerate = getattr(pl_module, "accelerate", "none")
        require("graph" not in accelerate, "accelerate must be 'compile' or 'none' where N is drawn", accelerate)
        self.sleeper = sleeper

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        seed: int = trainer.datamodule.seed  # pyright: ignore[reportAttributeAccessIssue]
        draw = np.random.default_rng((seed, trainer.global_step))
        self.sleeper.training_n_passes = int(draw.integers(self.fewest, self.sleeper.n_passes, endpoint=True))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.sleeper.training_n_passes = None

    def state_dict(self) -> dict[str, Any]:
        return {"fewest": self.fewest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if the checkpoint was trained with another number."""
        check_as_trained("fewest", state_dict["fewest"], self.fewest)
