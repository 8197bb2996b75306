"""Lightning callbacks: the sleep itself, the stop on a non-finite loss, and the report of a run."""

import time
from itertools import pairwise
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lmsleep.memory import Eviction, FastWeights, check_eviction, check_n_passes
from lmsleep.model import HybridLM
from lmsleep.ops.backend import describe
from lmsleep.sleep import Pass, sleep


class SleepCallback(L.Callback):
    """Answers the overflow of the attention cache with a sleep: passes 2..N over the full window.

    Without this callback a `SleepModule` is the plain hybrid, N = 1. A checkpoint remembers N and the eviction.

    Args:
        n_passes: N, the total number of passes over a window that overflows; the wake pass is the first.
        eviction: `hard` empties the cache after a sleep, `sliding` keeps the newest L - 1 tokens.
        allow_other_n: lets a checkpoint that was trained with another N or eviction be used.

    Attributes:
        training_eviction: takes the place of `eviction` for training batches, while a stage of training wants it.
        n_sleeps: overflows of a batch answered since the start of the stage.
        seconds_asleep: wall time spent on them (on CUDA: time to launch them).
        sleeps_per_sequence, passes_per_sequence: of the rows read since then, the mean number of sleeps, and of passes
            over the windows that slept.
        change: per pass 2..N of the last recorded sleep, the mean over rows of |S_n - S_(n-1)| / |S_n| for each
            fast-weight layer; recorded in validation, test and predict, where it costs nothing that counts.

    Raises:
        ValueError: if n_passes is below 1 or the eviction is unknown; on loading a checkpoint that disagrees.
    """

    def __init__(self, n_passes: int = 1, eviction: Eviction = "hard", allow_other_n: bool = False) -> None:
        check_n_passes(n_passes)
        check_eviction(eviction)
        self.n_passes, self.allow_other_n = n_passes, allow_other_n
        self.eviction: Eviction = eviction
        self.training_eviction: Eviction | None = None
        self.reset()

    def reset(self) -> None:
        self.n_sleeps, self.seconds_asleep = 0, 0.0
        self.n_sequences, self.n_sequence_sleeps = 0, 0
        self.change: list[list[float]] = []

    def eviction_for(self, module: L.LightningModule) -> Eviction:
        """The eviction of the batch that the module reads now."""
        return self.training_eviction or self.eviction if module.training else self.eviction

    @property
    def sleeps_per_sequence(self) -> float:
        return self.n_sequence_sleeps / max(1, self.n_sequences)

    @property
    def passes_per_sequence(self) -> float:
        return self.sleeps_per_sequence * self.n_passes

    def on_overflow(
        self, module: L.LightningModule, blocks: Pass, h: Tensor, S: FastWeights
    ) -> tuple[Tensor, FastWeights]:
        """The sleep on one full window: h (B, L, D) and S as the wake pass left them -> as pass N leaves them."""
        start = time.perf_counter()
        trace = [S]

        def traced(h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
            h, S = blocks(h, S)
            trace.append(S)
            return h, S

        h, S = sleep(blocks if module.training else traced, h, S, self.n_passes)
        self.n_sleeps += 1
        self.n_sequence_sleeps += len(h)
        self.seconds_asleep += time.perf_counter() - start
        if len(trace) > 1:
            self.change = [_relative_change(*pair) for pair in pairwise(trace)]
        return h, S

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.reset()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.reset()  # forgets the sanity check

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.n_sequences += len(batch.tokens)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = on_train_batch_start

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["sleep"] = {"n_passes": self.n_passes, "eviction": self.eviction}

    def check_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError if the checkpoint was trained with another N or eviction and this was not asked for."""
        for name, trained in checkpoint.get("sleep", {"n_passes": 1, "eviction": "hard"}).items():
            mine = getattr(self, name)
            if mine != trained and not self.allow_other_n:
                raise ValueError(
                    f"{name} must be {trained!r}, with which the checkpoint was trained, got {mine!r}; "
                    "set allow_other_n to use it all the same"
                )


def _relative_change(before: FastWeights, after: FastWeights) -> list[float]:
    step = FastWeights(tuple(b - a for a, b in zip(before.states, after.states, strict=True)))
    return (step.norms() / after.norms().clamp(min=1e-12)).mean(dim=1).tolist()


class StopOnNonFinite(L.Callback):
    """Stops before the update when a loss or a gradient is not finite."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.context = (sleeping(trainer).n_passes, getattr(trainer.datamodule, "seed", None))  # pyright: ignore

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Raises FloatingPointError that names what is not finite, the step, N and the seed."""
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        loss = trainer.callback_metrics.get("train/loss", torch.zeros(()))
        total = torch.stack(torch._foreach_norm(grads)).sum() + loss.to(grads[0].device)
        if not torch.isfinite(total):
            what = "gradient" if torch.isfinite(loss) else "loss"
            n_passes, seed = self.context
            raise FloatingPointError(
                f"{what} is not finite at step {trainer.global_step} (n_passes={n_passes}, seed={seed}); "
                "the weights are those before this step"
            )


class RunReport(L.Callback):
    """Says at the start what is run, and shows tokens per second in the progress bar."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model: HybridLM = pl_module.model  # pyright: ignore
        data = trainer.datamodule  # pyright: ignore
        N, task = sleeping(trainer).n_passes, data.task
        windows = -(-task.sequence_length // model.window_size)
        backends = ", ".join(f"{op} {c.backend}" for op, c in describe(pl_module.device.type).items())
        rank_zero_info(
            f"{task}\n"
            f"{model.config.pattern}, {model.config.num_params():,} parameters; {windows} windows of up to "
            f"{model.window_size} tokens; {N} passes ({sleeping(trainer).eviction} eviction); "
            f"{data.batch_size * task.sequence_length:,} tokens a step, {trainer.max_steps:,} steps; seed {data.seed}\n"
            f"backends: {backends}"
        )
        self.tokens_per_batch = data.batch_size * task.sequence_length // trainer.accumulate_grad_batches
        self.since, self.batches = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if (trainer.fit_loop.total_batch_idx + 1) % trainer.log_every_n_steps == 0:  # pyright: ignore
            now = time.perf_counter()
            speed = self.batches * self.tokens_per_batch / (now - self.since)
            pl_module.log("tokens_per_second", speed, prog_bar=True)
            self.since, self.batches = now, 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.since, self.batches = time.perf_counter(), 0


def sleeping(trainer: L.Trainer) -> SleepCallback:
    """The trainer's SleepCallback, or one with N = 1 where there is none."""
    return next((c for c in trainer.callbacks if isinstance(c, SleepCallback)), None) or SleepCallback()  # pyright: ignore
