"""The LightningModule: reads a batch window by window and raises an overflow event; it does not know N."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.distributed.tensor import DTensor

from lmsleep.checks import checked
from lmsleep.metrics import SliceScores, row_scores
from lmsleep.model import HybridConfig, Lora, SharedWeights
from lmsleep.pretrained import load_weights, pretrained_config
from lmsleep.sleep import Reading, read_windows
from lmsleep.tasks import Batch, Task
from lmsleep.tasks.spec import is_ours, task_spec
from lmsleep.tasks.text_base import TextTask
from lmsleep.training.callbacks import SleepCallback, find_callback, sleep_settings
from lmsleep.training.checkpoint import use_atomic_io
from lmsleep.training.graphs import Accelerate, StepGraphs, check_accelerate, check_graph_trainer, compile_blocks
from lmsleep.training.lightning_internals import number_metrics
from lmsleep.training.monitor import check_monitors
from lmsleep.training.optimizer import MuonAdamW, OptimizerConfig, ScheduledRates, total_steps
from lmsleep.training.ranks import (
    check_strategy,
    loss_windows_of,
    require_targets,
    shard,
    share_of_loss,
    stop_together,
    sum_over_ranks,
)
from lmsleep.training.resume import check_resumed, check_states, run_settings
from lmsleep.training.start import add_lora, check_tokenizer
from lmsleep.windows import SleepSettings

# Said of `SleepModule` in every run with a data module, though `RowsDataModule` has no such hook to replace.
warnings.filterwarnings("ignore", ".*overridden `on_before_batch_transfer` in `LightningModule` but")


class SleepModule(L.LightningModule):
    """Trains a hybrid model with Algorithm 1.

    Args:
        task: gives vocabulary, window size, slices and answers.
        model: the architecture; vocab_size and window_size may be left to the task. None: that of `init_from`, or the
            default. On the command line, with `init_from`, what is given are changes to that of the weights.
        optimizer: Muon, AdamW and their schedule.
        checkpointing: recompute passes in the backward to save memory.
        accelerate: `compile` compiles the blocks; `graph` captures forward and backward of a training step as CUDA
            graphs, for batches of one shape that carry loss in the same windows; `compile+graph` does both.
        init_from: a folder or a name on the Hugging Face hub with weights to start from: a pretrained model or one of
            `lmsleep export`; blocks without MLP may be inserted.
        lora: train adapters (`lora.rank`) instead of these weights; None: train all.

    Raises:
        ValueError: if model, task and weights do not fit together.
    """

    @checked
    def __init__(
        self,
        task: Task,
        model: HybridConfig | None = None,
        optimizer: OptimizerConfig | None = None,
        checkpointing: bool = False,
        accelerate: Accelerate = "none",
        init_from: str | None = None,
        lora: Lora | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        config = model or (HybridConfig() if init_from is None else pretrained_config(init_from))
        if init_from is not None and isinstance(task, TextTask):
            check_tokenizer(task, init_from)
        self.model = config.for_task(task.vocab_size, task.window_size, task.sequence_length).build()
        if init_from is not None:
            load_weights(self.model, init_from)
        if lora is not None:
            add_lora(self.model, lora)
        self.model.blocks.checkpointing = checkpointing
        self.accelerate: Accelerate = accelerate
        self.init_from, self.graphs = init_from, StepGraphs(self.model)
        self.seed: int | None = None  # from which the weights were drawn, as the command line says
        self.optimizer_config = optimizer or OptimizerConfig()
        self.scores = SliceScores(task.slices, task.has_answers)
        self._resumed: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        self._resumed = None
        check_monitors(self.trainer, self)
        stop_together(self.trainer)
        use_atomic_io(self.trainer)

    def configure_model(self) -> None:
        """Converts the model to the trainer's precision before a checkpoint is loaded, which would be rounded, and
        shards it under ModelParallelStrategy."""
        self.trainer.precision_plugin.convert_module(self)
        if self.device_mesh is not None and not isinstance(self.model.embedding.weight, DTensor):
            shard(self, self.model, self.device_mesh)

    def on_fit_start(self) -> None:
        if self._resumed is not None:
            check_states(self.trainer, self._resumed)
            self._resumed = None
        if "compile" in self.accelerate:
            compile_blocks(self.model)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if self.training:
            number_metrics(self.trainer)
        if self.training and "graph" in self.accelerate:
            self.graphs.observe(batch.targets, self._sleeps.after_loss)
        return batch

    def forward(
        self, batch: Batch, loss_windows: Sequence[bool] | None = None, shared: SharedWeights | None = None
    ) -> Reading:
        """Algorithm 1 over a batch, which must have targets; the `SleepCallback` answers overflows with new h and S."""
        sleeper, sleeps = self._sleeper, self._sleeps
        answer = None if sleeper is None else sleeper.answer(self)
        sharded = self.device_mesh is not None
        if loss_windows is None and (sharded or (self.training and getattr(self._own_trainer, "world_size", 1) > 1)):
            loss_windows = loss_windows_of(batch.targets, self.model.window_size, sharded)
        reading = read_windows(
            self.model,
            batch.tokens,
            batch.targets,
            eviction=sleeps.eviction,
            mask=batch.mask,
            on_overflow=answer,
            loss_windows=loss_windows,
            after_loss=sleeps.after_loss,
            wake_passes=sleeps.wake_passes,
            scored_only=self.training,
            shared=shared,
        )
        require_targets(reading.loss is not None, self.task)
        if sleeper is not None and answer is None:
            sleeper.count(reading.windows.n_sleeps, len(batch.tokens))
        return reading

    @property
    def _own_trainer(self) -> L.Trainer | None:
        """None outside of a run."""
        try:
            return self.trainer
        except RuntimeError:
            return None

    @property
    def _sleeper(self) -> SleepCallback | None:
        return find_callback(self._own_trainer, SleepCallback)

    @property
    def _sleeps(self) -> SleepSettings:
        """How the current batch is read."""
        return sleep_settings(self._own_trainer, self.training)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Only for steps that are logged: metrics take some 7 % of a mini model's step.
        every: int = self.trainer.log_every_n_steps or 1  # pyright: ignore[reportAttributeAccessIssue]
        logs = self.global_step == 0 or (self.global_step + 1) % every == 0
        loss, *exact = self._graphed(batch) if "graph" in self.accelerate else self._loss_and_exact(batch, exact=logs)
        loss = share_of_loss(loss, batch.targets, self.trainer)
        if logs:
            scores = {"train/loss": sum_over_ranks(loss, self.trainer) / self.trainer.world_size}
            if exact:
                right, answers = sum_over_ranks(exact[0], self.trainer)
                scores["train/exact"] = (right / answers).float()
            # Without prog_bar, for which Lightning would wait for the device.
            self.log_dict(scores, batch_size=len(batch.tokens))
        return loss

    def _loss_and_exact(
        self, batch: Batch, loss_windows: Sequence[bool] | None = None, exact: bool = True
    ) -> tuple[Tensor, ...]:
        """The loss and, if `exact`, how many answers are right of how many, (2,)."""
        # Sharded weights are gathered for one block at a time: shared copies would keep them all.
        shared = SharedWeights() if batch.tokens.is_cuda and self.device_mesh is None else None
        reading = self(batch, loss_windows, shared)
        assert reading.loss is not None
        if not (exact and self.task.has_answers):
            return (reading.loss,)
        with torch.no_grad():
            sums, counts = row_scores(*self._scored(reading))
        return reading.loss, torch.stack([sums[-1].sum(), counts[-1].sum()])

    def _graphed(self, batch: Batch) -> tuple[Tensor, ...]:
        windows, sleeper = self.graphs.windows, self._sleeper
        assert windows is not None, "observed before the batch was transferred"
        step = partial(self._loss_and_exact, loss_windows=windows.carry_loss)
        with nullcontext() if sleeper is None else sleeper.counting(windows.n_sleeps, len(batch.tokens)):
            return self.graphs(step, batch, self._sleeps)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.scores.update(*self._scored(self(batch)), batch.slice)

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The most likely token at each position of the windows with loss (B, P), and the targets there."""
        logits, targets, _ = self._scored(self(batch))
        return {"predictions": logits.argmax(-1), "targets": targets}

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        check_strategy(self.trainer.strategy)
        check_accelerate(self.accelerate, self.device)
        if "graph" in self.accelerate:
            check_graph_trainer(self.trainer)
        optimizer: MuonAdamW = self.optimizer_config.build(self.model.blocks, self.model)
        scheduler = ScheduledRates(optimizer, self.optimizer_config.schedule(total_steps(self.trainer)))
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
        checkpoint["model_config"] = self.model.config.to_dict()
        with suppress(ValueError):  # a training without end
            checkpoint["max_steps"] = total_steps(self.trainer)
        if self.model.lora is not None:
            checkpoint["lora"] = asdict(self.model.lora)
        checkpoint["settings"] = run_settings(self.trainer, self)
        if is_ours(self.task):
            checkpoint["task"] = task_spec(self.task)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError if the checkpoint does not fit the model, or was trained with other settings."""
        if (trainer := self._own_trainer) is not None:
            check_resumed(trainer, self, checkpoint)
            check_states(trainer, checkpoint)
            if trainer.state.fn == TrainerFn.FITTING and not trainer.strategy.restore_checkpoint_after_setup:
                self._resumed = checkpoint  # until the strategy has set them up, and `on_fit_start` checks their states

    def _scored(self, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
        assert reading.scored_logits is not None and reading.scored_targets is not None
        return reading.scored_logits.detach(), reading.scored_targets, self.task.answers(reading.scored_targets)

    def _log_scores(self, stage: str) -> None:
        values = self.scores.compute()
        self.scores.reset()
        # The metric has gathered its counts: values are equal on all ranks.
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, sync_dist=True)
