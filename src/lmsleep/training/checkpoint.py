"""The checkpoint that a run can be resumed from, and the random numbers that it then draws."""

import os
import pickle
import signal
import subprocess
from pathlib import Path
from reprlib import repr as shortened
from typing import IO, Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lmsleep.atomic import atomic_write, check_checkpoint_file, claim, sweep
from lmsleep.hub import first_line, require
from lmsleep.training.content import check_content
from lmsleep.training.optimizer import sum_of_norms
from lmsleep.training.ranks import raised_by_all

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
ONE_FILE = "trainer.strategy.save_distributed_checkpoint=false"  # in place of a folder, which torch reads with pickle


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
        keep = Path(path).with_name(PREVIOUS) if Path(path).name == LAST else None
        with atomic_write(path, keep) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, on the way from the system's: a full disk
                raise error.__context__ or error from None

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Raises ValueError if the file is damaged, or holds other than the tensors and plain values of a run."""
        if is_local(path):
            check_checkpoint_file(path)
        try:
            content = super().load_checkpoint(path, *args, **kwargs | {"weights_only": True})
        except RuntimeError as error:  # a directory of the archive that torch reads otherwise than others
            raise ValueError(f"checkpoint {str(path)!r} is damaged: {first_line(error)}") from None
        except pickle.UnpicklingError:
            raise ValueError(f"checkpoint {str(path)!r} must hold tensors and plain values alone") from None
        check_content(content, f"checkpoint {str(path)!r}")
        return content


def read_whole(trainer: L.Trainer) -> None:
    """Lets a trainer read checkpoints as `WholeFileIO` does, also where its strategy reads them by itself."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeFileIO()
    if isinstance(strategy, ModelParallelStrategy) and "load_checkpoint" not in vars(strategy):
        load = strategy.load_checkpoint

        def look_first(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
            trainer.lightning_module.on_load_checkpoint(strategy.checkpoint_io.load_checkpoint(checkpoint_path))
            return load(checkpoint_path, weights_only=True)

        strategy.load_checkpoint = look_first


def is_local(path: str | Path) -> bool:
    """Whether it is a file of this machine, and no URL."""
    return "://" not in str(path)


class LastCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint, `last.ckpt`: of the latest validation, of the end, or of the batch at which SIGTERM stopped
    the run; and the one before it, `previous.ckpt`. They are written and read as `WholeFileIO` does. SLURM's SIGUSR1
    does as SIGTERM, and has the job requeued.

    Args:
        dirpath: their folder; None: that of the logger, or the trainer's `default_root_dir`.
        every_n_train_steps: saves every so many steps instead of after validations.
        overwrite: lets a run replace a checkpoint that it does not go on from.

    Raises:
        ValueError: when training starts, if the folder has a checkpoint of another run, or one that is at work.
        FloatingPointError: on saving weights that are not finite.
    """

    def __init__(
        self, dirpath: str | None = None, every_n_train_steps: int | None = None, overwrite: bool = False
    ) -> None:
        super().__init__(
            dirpath,
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_exception=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.overwrite = overwrite
        self.lock: IO[bytes] | None = None
        self.requeue = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        shards = getattr(trainer.strategy, "_save_distributed_checkpoint", False)
        require(stage != "fit" or not shards, f"checkpoints must be of one file, by --{ONE_FILE}", "folders of shards")
        read_whole(trainer)
        trainer._signal_connector._slurm_sigusr_handler_fn = self._hear
        super().setup(trainer, pl_module, stage)

    def _hear(self, signum: int, _: Any) -> None:
        """SLURM's signal to requeue ends a run as SIGTERM does. Lightning would save wherever it finds the process,
        within an update too, and wait for ever for what other processes do."""
        self.requeue = True
        os.kill(os.getpid(), signal.SIGTERM)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the folder for this run."""
        if trainer.fast_dev_run or not is_local(self.dirpath or ""):  # pyright: ignore[reportAttributeAccessIssue]
            return
        with raised_by_all(trainer):
            if trainer.is_global_zero:
                self._take(Path(os.path.realpath(self.dirpath or "")), trainer.ckpt_path)
            trainer.strategy.barrier()

    def _take(self, folder: Path, start: Any) -> None:
        if (folder / LAST).exists() and not self.overwrite and (not start or Path(start).resolve().parent != folder):
            raise ValueError(
                f"dirpath must be a folder without {LAST}, got {str(folder)!r}; go on from it with --ckpt_path, or "
                "replace it with --checkpoint.overwrite=true"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = claim(folder)
        sweep(folder / LAST)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes a checkpoint and removes it: what cannot be saved is to be known before the first step."""
        super().on_train_start(trainer, pl_module)
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            fresh = [optimizer for optimizer in trainer.optimizers if not optimizer.state]
            probe = f"{self.dirpath}/.probe.ckpt"
            with raised_by_all(trainer):
                trainer.save_checkpoint(probe)
            trainer.strategy.remove_checkpoint(probe)
            for optimizer in fresh:  # of a sharded model: to have a state to save, it took a step, which would count
                optimizer.state.clear()

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        with raised_by_all(trainer):
            super()._save_checkpoint(trainer, filepath)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint holds no gradients: micro-batches of a step that is not complete are to be read again."""
        if not torch.isfinite(sum_of_norms(list(pl_module.parameters()), torch.inf)):
            raise FloatingPointError(f"weights are not finite at step {trainer.global_step}; they were not saved")
        loops = checkpoint["loops"]["fit_loop"]
        progress, extra = loops["epoch_loop.batch_progress"], unfinished(trainer)
        epochs = loops["epoch_progress"]["current"]
        if epochs["completed"] == epochs["ready"]:  # Lightning would take the next epoch's first batch for its last
            progress["current"] = dict.fromkeys(progress["current"], 0)
            extra = 0
        for counts in (progress["total"], progress["current"]):
            for name in counts:
                counts[name] -= extra

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what was trained since the last validation."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gives the folder back."""
        if self.lock is not None:
            Path(self.lock.name).unlink(missing_ok=True)
            self.lock.close()
            self.lock = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Saves on SIGTERM, which Lightning raises between two batches; another exception may come within an update."""
        try:
            if isinstance(exception, SIGTERMException):
                if trainer.validating:
                    # A resumed run repeats a validation in whose first batch it was stopped; others it takes for
                    # complete.
                    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
                    progress.reset()
                    progress.increment_ready()
                    progress.increment_started()
                super().on_exception(trainer, pl_module, exception)
                if self.requeue and trainer.is_global_zero:
                    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        finally:
            self.teardown(trainer, pl_module, "fit")


def unfinished(trainer: L.Trainer) -> int:
    """Batches that were read of a step which is not complete; that of the last batches of an epoch may have fewer."""
    read = trainer.fit_loop.batch_idx + 1
    return 0 if read == trainer.num_training_batches else read % trainer.accumulate_grad_batches


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
        self.states: dict[str, Tensor] = {}  # after the last batch
        self.saved: dict[str, Tensor] = {}  # after the last whole step, from which a resumed run reads on
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
        if not unfinished(trainer):
            self.saved = self.states

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.disturbed = True

    def state_dict(self) -> dict[str, Any]:
        return {"states": self.saved}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError if it holds other states than those of generators."""
        states = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("states")
        try:
            if states:
                torch.Generator().set_state(states["cpu"].cpu())
        except (AttributeError, KeyError, RuntimeError, TypeError):
            where = f"states in {self.state_key} in callbacks in checkpoint {str(trainer.ckpt_path)!r}"
            raise ValueError(f"{where} must be those of random numbers, got {shortened(states)}") from None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Generators take their state from the CPU, wherever the checkpoint was loaded to.
        self.states = self.saved = {name: state.cpu() for name, state in state_dict["states"].items()}
        self.disturbed = True
