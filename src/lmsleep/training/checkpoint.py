"""The checkpoint that a run resumes from."""

import os
import pickle
import shlex
import subprocess
from pathlib import Path
from typing import IO, Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lmsleep import signals
from lmsleep.atomic import atomic_write, check_checkpoint_file, lock_folder, remove_stale
from lmsleep.checks import LAST, ONE_FILE, checked, first_line, left_by_run, require
from lmsleep.training.callbacks import find_callback
from lmsleep.training.lightning_internals import (
    GuardedCheckpoint,
    await_validation,
    handle_requeue,
    has_last_checkpoint,
    look_before_loading,
    repeat_validation,
    saves_shards,
    uncount_batches,
)
from lmsleep.training.ranks import raise_on_all_ranks
from lmsleep.training.resume import check_content
from lmsleep.training.sharded import sum_of_norms

PREVIOUS = "previous.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically and verifies them before reading. Lightning's own IO writes to the folder for
    temporary files and moves: from another file system that is a copy, which a kill can truncate."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if not is_local(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        keep = Path(path).with_name(PREVIOUS) if Path(path).name == LAST else None
        with atomic_write(path, keep) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch wraps the system's error, such as a full disk
                raise error.__context__ or error from None

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Raises ValueError if the file is damaged, or holds anything but the tensors and plain values of a run."""
        if is_local(path):
            check_checkpoint_file(path)
        try:
            content = super().load_checkpoint(path, *args, **kwargs | {"weights_only": True})
        except RuntimeError as error:  # an archive that only Python's zipfile can read
            raise ValueError(f"checkpoint {str(path)!r} is damaged: {first_line(error)}") from None
        except pickle.UnpicklingError:
            raise ValueError(f"checkpoint {str(path)!r} must hold tensors and plain values alone") from None
        check_content(content, f"checkpoint {str(path)!r}")
        return content


def check_checkpoint(path: str | None) -> None:
    """Raises ValueError if there is no checkpoint at `path`, or it is damaged or a web address."""
    web = path is not None and path.startswith(("http://", "https://"))
    require(not web, "ckpt_path must be a checkpoint on a disk", path)
    require(path != "best", "ckpt_path must be a file, or last: a command does not know which of a run was best", path)
    if path is None or path in ("last", "hpc") or path.startswith("registry") or not is_local(path):
        return  # Lightning finds it
    check_checkpoint_file(path, "ckpt_path")


def check_last(trainer: L.Trainer, path: str | None, trains: bool) -> None:
    """Raises ValueError if `last` finds no checkpoint, unless the run `trains`: it then says that it starts anew."""
    if path != "last" or has_last_checkpoint(trainer):
        return
    keeper = find_callback(trainer, LastCheckpoint)
    folder = keeper and keeper.dirpath
    if not trains:
        left = left_by_run(Path(folder)) if folder and is_local(folder) else ""
        raise ValueError(f"--ckpt_path=last must find {LAST} in --checkpoint.dirpath, got {folder!r}{left}")
    rank_zero_info(f"there is no {LAST} to go on from: the run starts at its first step")


def use_atomic_io(trainer: L.Trainer) -> None:
    """Makes a trainer use `AtomicCheckpointIO`, also if its strategy has its own way to read checkpoints."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()
    if isinstance(strategy, ModelParallelStrategy):
        look_before_loading(
            strategy,
            lambda path: trainer.lightning_module.on_load_checkpoint(strategy.checkpoint_io.load_checkpoint(path)),
        )


def is_local(path: str | Path) -> bool:
    """Whether a path is no URL."""
    return "://" not in str(path)


class LastCheckpoint(GuardedCheckpoint):
    """Keeps `last.ckpt`, saved after a validation, at the end, and when SIGTERM stops the run.

    The one before it stays as `previous.ckpt`. The end of the terminal acts as SIGTERM, unless the run is to outlive it
    (`nohup`), and SLURM's SIGUSR1, which requeues the job too.

    Args:
        dirpath: their folder; None: that of the logger, or the trainer's `default_root_dir`.
        every_n_train_steps: saves at this interval instead of after validations.
        overwrite: lets a run replace the checkpoint of another one.

    Raises:
        ValueError: when training starts, if the folder has a checkpoint of another run or is in use by one.
        FloatingPointError: on saving weights that are not finite.
    """

    guard = staticmethod(raise_on_all_ranks)

    @checked
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
        whole = stage != "fit" or not saves_shards(trainer)
        require(whole, f"checkpoints must be of one file, by --{ONE_FILE}", "folders of shards")
        use_atomic_io(trainer)
        handle_requeue(trainer, self._on_requeue)
        super().setup(trainer, pl_module, stage)

    def _on_requeue(self, signum: int, _: Any) -> None:
        """Handles SLURM's signal to requeue like SIGTERM."""
        self.requeue = True
        signals.stop()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Locks the folder for this run."""
        if trainer.fast_dev_run or not is_local(self.dirpath or ""):  # pyright: ignore[reportAttributeAccessIssue]
            return
        with raise_on_all_ranks(trainer):
            if trainer.is_global_zero:
                self._claim_folder(Path(os.path.realpath(self.dirpath or "")), trainer.ckpt_path)
            trainer.strategy.barrier()

    def _claim_folder(self, folder: Path, start: Any) -> None:
        if (folder / LAST).exists() and not self.overwrite and (not start or Path(start).resolve().parent != folder):
            raise ValueError(
                f"dirpath must be a folder without {LAST}, got {str(folder)!r}; go on from it with --ckpt_path, or "
                "replace it with --checkpoint.overwrite=true"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = lock_folder(folder)
        remove_stale(folder / LAST)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves a checkpoint and removes it, so that a run that cannot save fails before its first step."""
        super().on_train_start(trainer, pl_module)
        signals.stop_with_terminal()
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            fresh = [optimizer for optimizer in trainer.optimizers if not optimizer.state]
            probe = f"{self.dirpath}/.probe.ckpt"
            with raise_on_all_ranks(trainer):
                trainer.save_checkpoint(probe)
            trainer.strategy.remove_checkpoint(probe)
            for optimizer in fresh:  # torch takes a step to have a sharded state to save: it must not count
                optimizer.state.clear()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Uncounts the micro-batches of an incomplete step, whose gradients are not saved: they must be read again; and
        has a validation made that is still to come."""
        if not torch.isfinite(sum_of_norms(list(pl_module.parameters()), torch.inf)):
            named = pl_module.named_parameters()
            first = next(name for name, weight in named if not torch.isfinite(sum_of_norms([weight], torch.inf)))
            what = f"weights are not finite at step {trainer.global_step}, the first of them {first}"
            raise FloatingPointError(f"{what}; they were not saved")
        await_validation(checkpoint)
        uncount_batches(checkpoint, pending_batches(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what was trained since the last validation."""
        self.save_now(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Unlocks the folder."""
        if self.lock is not None:
            Path(self.lock.name).unlink(missing_ok=True)
            self.lock.close()
            self.lock = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Saves on SIGTERM, raised between two batches; any other exception may come within an update."""
        try:
            if isinstance(exception, SIGTERMException):
                if trainer.validating:
                    repeat_validation(trainer)
                super().on_exception(trainer, pl_module, exception)
                where = ""
                if trainer.state.fn == TrainerFn.FITTING:  # nothing else goes on
                    saved = os.path.relpath(f"{self.dirpath}/{LAST}")
                    goes_on = f"; --ckpt_path={shlex.quote(saved)} goes on" if os.path.isfile(saved) else ""
                    where = f" at step {trainer.global_step}{goes_on}"
                rank_zero_info(f"stopped by SIGTERM{where}")
                if self.requeue and trainer.is_global_zero:
                    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        finally:
            self.teardown(trainer, pl_module, "fit")


def pending_batches(trainer: L.Trainer) -> int:
    """Batches read of a step that is not complete; the last step of an epoch may have fewer batches."""
    read = trainer.fit_loop.batch_idx + 1
    return 0 if read == trainer.num_training_batches else read % trainer.accumulate_grad_batches
