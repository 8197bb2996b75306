"""The answers of a checkpoint as a table."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lmsleep.atomic import check_writable, save_csv
from lmsleep.tasks import Batch

FILE = "predictions.csv"
COLUMNS = ["row", "slice", "expected", "answered", "right"]


class PredictionWriter(BasePredictionWriter):
    """Writes predictions.csv into the trainer's `default_root_dir`, a line for each answer of the test rows.

    Columns: `row`, from 0; `slice`; `expected` and `answered`, token ids separated by spaces; `right`, 1 or 0; for a
    task on texts also `expected_text` and `answered_text`. The mean of `right` is `test/exact`. Raises ValueError if
    there are several devices.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if trainer.world_size > 1:
            raise ValueError(f"devices of the trainer must be 1 to write predictions, got {trainer.world_size}")
        check_writable(trainer.default_root_dir)
        self.n_rows = 0
        self.lines: list[tuple[int, int, str, str, int]] = []

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Collects the answers of a batch. Raises SIGTERMException, which Lightning does not while it predicts."""
        if trainer.received_sigterm:
            raise SIGTERMException
        targets, task = prediction["targets"], pl_module.task
        answers: Tensor = task.answers(targets)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        columns = (batch.slice, targets, prediction["predictions"], answers)
        for level, *tokens in zip(*(x.tolist() for x in columns), strict=True):
            self.lines += [(self.n_rows, level, *answer) for answer in answers_of(*tokens)]
            self.n_rows += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path, table = Path(trainer.default_root_dir) / FILE, pd.DataFrame(self.lines, columns=COLUMNS)
        if decode := getattr(pl_module.task, "decode", None):
            for name in ("expected", "answered"):
                table[f"{name}_text"] = [decode(list(map(int, tokens.split()))) for tokens in table[name]]
        save_csv(path, table)
        print(f"{os.path.relpath(path)}: {len(self.lines):,} answers of {self.n_rows:,} rows")


def answers_of(targets: list[int], said: list[int], answers: list[int]) -> list[tuple[str, str, int]]:
    """expected, answered and right of each answer of a row; `answers` as of `Task.answers`."""
    found: list[tuple[str, str, int]] = []
    for answer in sorted(set(answers) - {-1}):
        places = [i for i, of in enumerate(answers) if of == answer]
        expected, answered = (" ".join(str(tokens[i]) for i in places) for tokens in (targets, said))
        found.append((expected, answered, int(expected == answered)))
    return found
