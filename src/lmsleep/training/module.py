"""The LightningModule: reads a batch window by window, raises an overflow event, and knows no N."""

from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from lmsleep.memory import Eviction, FastWeights
from lmsleep.model import HybridConfig
from lmsleep.pretrained import load_weights, pretrained_config
from lmsleep.sleep import Pass, Reading, read_windows
from lmsleep.tasks import Batch, Task
from lmsleep.training.callbacks import SleepCallback, sleeping
from lmsleep.training.metrics import SliceScores, row_scores
from lmsleep.training.optimizer import MuonAdamW, OptimizerConfig


class SleepModule(L.LightningModule):
    """Trains a hybrid model to answer from what it kept in its fast weights.

    Args:
        task: supplies vocabulary, window size, slices and what counts as an answer.
        model: the architecture; vocab_size and window_size may be left to the task. None: that of `init_from`, or the
            default.
        optimizer: Muon, AdamW and their schedule.
        checkpointing: recompute passes in the backward to save memory.
        init_from: a folder or a name on the Hugging Face hub with weights to start from (Jet-Nemotron, Ouro).

    Raises:
        ValueError: if model, task and weights do not fit together.
    """

    def __init__(
        self,
        task: Task,
        model: HybridConfig | None = None,
        optimizer: OptimizerConfig | None = None,
        checkpointing: bool = False,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        config = model or (HybridConfig() if init_from is None else pretrained_config(init_from))
        self.model = config.for_task(task.vocab_size, task.window_size).build()
        if init_from is not None:
            load_weights(self.model, init_from)
        self.model.blocks.checkpointing = checkpointing
        self.optimizer_config = optimizer or OptimizerConfig()
        self.scores = SliceScores(task.slices)

    def forward(self, batch: Batch) -> Reading:
        """Algorithm 1 over a batch; every overflow goes to the callbacks."""
        trainer = self._trainer
        eviction: Eviction = "hard" if trainer is None else sleeping(trainer).eviction_for(self)
        return read_windows(
            self.model, batch.tokens, batch.targets, eviction=eviction, mask=batch.mask, on_overflow=self.raise_overflow
        )

    def raise_overflow(self, blocks: Pass, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        """The overflow event: the attention cache is full. Whoever sleeps answers with a new h and S."""
        callbacks: list[Any] = [] if self._trainer is None else self.trainer.callbacks  # pyright: ignore
        for callback in callbacks:
            if isinstance(callback, SleepCallback):
                h, S = callback.on_overflow(self, blocks, h, S)
        return h, S

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        reading = self(batch)
        assert reading.loss is not None, "a training batch has targets"
        with torch.no_grad():
            sums, counts = row_scores(*self._scored(reading))
        exact = sums[-1].sum() / counts[-1].sum()
        self.log("train/loss", reading.loss, prog_bar=True, batch_size=len(batch.tokens))
        self.log("train/exact", exact.float(), prog_bar=True, batch_size=len(batch.tokens))
        return reading.loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        reading = self(batch)
        self.scores.update(*self._scored(reading), batch.slice)

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The most likely token at each position of the loss-bearing windows (B, P), and the targets there."""
        reading = self(batch)
        logits, targets, _ = self._scored(reading)
        return {"predictions": logits.argmax(-1), "targets": targets}

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer: MuonAdamW = self.optimizer_config.build(self.model.blocks, self.model)
        factor = self.optimizer_config.schedule(int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips to `optimizer.grad_clip`, unless the trainer's own `gradient_clip_val` is set."""
        limit = self.optimizer_config.grad_clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, limit, gradient_clip_algorithm or "norm")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model_config"] = asdict(self.model.config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint that was trained with another N, unless that was asked for."""
        if self._trainer is not None:
            sleeping(self.trainer).check_checkpoint(checkpoint)

    def _scored(self, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
        assert reading.scored_logits is not None and reading.scored_targets is not None
        return reading.scored_logits.detach(), reading.scored_targets, self.task.answers(reading.scored_targets)

    def _log_scores(self, stage: str) -> None:
        values = self.scores.compute()
        self.scores.reset()
        shown = {f"{stage}/{name}": value for name, value in values.items() if name in ("loss", "exact")}
        self.log_dict(shown, prog_bar=True)
        self.log_dict({f"{stage}/{name}": v for name, v in values.items() if f"{stage}/{name}" not in shown})
