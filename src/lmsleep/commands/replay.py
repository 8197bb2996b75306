"""Repeat the step at which a loss or a gradient was not finite, from the folder that the run wrote.

lmsleep replay runs/mine/nonfinite-step41

It ends with the error of that run. If the step is finite now, code, packages or device made the difference.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import lightning as L
import torch

from lmsleep.checks import require, typed
from lmsleep.commands.quiet import quiet
from lmsleep.commands.run_errors import exit_codes
from lmsleep.data import RowsDataModule
from lmsleep.model import HybridLM
from lmsleep.model.folder import CONFIG, read_config
from lmsleep.tasks import Batch, Task
from lmsleep.tensors import read_tensors
from lmsleep.training.callbacks import SleepCallback
from lmsleep.training.module import SleepModule
from lmsleep.training.nonfinite import BATCHES, StepRecord, StopOnNonFinite
from lmsleep.windows import SleepSettings


@dataclass(frozen=True)
class RecordedRows(Task):
    """A task of given batches: step i is the i-th."""

    batches: tuple[Batch, ...]
    vocab_size: int = 1  # pyright: ignore[reportIncompatibleMethodOverride] (fields are properties)
    window_size: int = 1  # pyright: ignore[reportIncompatibleMethodOverride]
    slices: tuple[int, ...] = (0,)  # pyright: ignore[reportIncompatibleMethodOverride]

    @property
    def sequence_length(self) -> int:
        return self.batches[0].tokens.shape[1]

    def rows(self, *, split: str, seed: int, step: int, batch_size: int) -> Batch:
        return self.batches[step]


def main(bundle: Path) -> None:
    """The command.

    Args:
        bundle: the folder.

    Raises:
        FloatingPointError: as the run did.
        ValueError: if it is no such folder, is damaged, or is of a run with its own `on_overflow`.
    """
    tensors, _ = read_tensors(bundle / BATCHES, "cpu")
    trained = read_config(bundle)[1]
    sleeps = {field.name: trained.pop(field.name) for field in fields(SleepSettings) if field.name in trained}
    step: StepRecord = typed(StepRecord, trained | {"sleeps": sleeps}, f"trained in {bundle / CONFIG}")
    policy = step.sleeps.on_overflow
    require(policy is None, "on_overflow of a run that is repeated must be None", policy)
    model = HybridLM.from_pretrained(bundle)
    count = len({name.partition(".")[0] for name in tensors})
    batches = tuple(Batch(*(tensors.get(f"{i}.{name}") for name in Batch._fields)) for i in range(count))  # pyright: ignore
    task = RecordedRows(batches, model.vocab_size, model.window_size)
    module = SleepModule(task, model.config, accelerate=step.accelerate)
    module.model = module.graphs.model = model
    model.blocks.checkpointing = step.checkpointing
    device = step.device if torch.cuda.is_available() else "cpu"
    print(step if device == step.device else f"{step}\nthere is no {step.device} here: the CPU may differ", flush=True)
    with quiet(), exit_codes():
        trainer = L.Trainer(
            accelerator=device,
            devices=1,
            precision=step.precision,  # pyright: ignore[reportArgumentType]
            accumulate_grad_batches=step.accumulate_grad_batches,
            limit_train_batches=count,
            limit_val_batches=0,
            max_steps=1,
            callbacks=[SleepCallback(**asdict(step.sleeps)), StopOnNonFinite(step.step)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, RowsDataModule(task, len(batches[0].tokens), step.seed or 0))
    print("loss and gradient are finite: the failure does not come again")
