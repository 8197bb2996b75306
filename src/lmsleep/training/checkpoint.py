"""The checkpoint that a run can be resumed from, and the random numbers that it then draws."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lmsleep.atomic import atomic_write, check_checkpoint_file


class WholeFileIO(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all, and are read only if they still are what was written.

    Lightning's own are written to the folder for temporary files and moved; from another file system that is a copy,
    which a kill cuts off after it has emptied the old file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if not is_local(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Raises ValueError if the file is damaged."""
        if is_local(path):
            check_checkpoint_file(path)
        return super().load_checkpoint(path, *args, **kwargs)


def is_local(path: str | Path) -> bool:
    """Whether it is a file of this machine, and no URL."""
    return "://" not in str(path)


class LastCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint, `last.ckpt`: of the latest validation, of the end, or of the batch at which SIGTERM stopped
    the run. It is written and read as `WholeFileIO` does.

    Args:
        dirpath: its folder; None: that of the logger, or the trainer's `default_root_dir`.
        every_n_train_steps: saves every so many steps instead of after validations.
    """

    def __init__(self, dirpath: str | None = None, every_n_train_steps: int | None = None) -> None:
        super().__init__(
            dirpath,
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_exception=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint holds no gradients: micro-batches of a step that is not complete are to be read again."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        extra = progress["current"]["ready"] % trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            for name in counts:
                counts[name] -= extra

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what was trained since the last validation."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Saves on SIGTERM, which Lightning raises between two batches; another exception may come within an update."""
        if isinstance(exception, SIGTERMException):
            if trainer.validating:
                # A resumed run repeats a validation in whose first batch it was stopped; others it takes for complete.
                progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
                progress.reset()
                progress.increment_ready()
                progress.increment_started()
            super().on_exception(trainer, pl_module, exception)


def count_as_automatic(checkpoint: dict[str, Any]) -> None:
    """Lets a run go on whose steps were counted as manual optimization: those with graphs once were."""
    if checkpoint.get("captured") and "loops" in checkpoint:  # one of weights alone has none
        loop = checkpoint["loops"]["fit_loop"]
        steps = loop["epoch_loop.manual_optimization.optim_step_progress"]
        loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"] = steps


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
