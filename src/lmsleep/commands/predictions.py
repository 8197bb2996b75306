"""The answers of a checkpoint as a table."""

import os
from csv import QUOTE_NONNUMERIC
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lmsleep.atomic import check_output, save_csv
from lmsleep.checks import counted
from lmsleep.data import HeldOutRows
from lmsleep.tasks import Batch
from lmsleep.tasks.base import split_answers
from lmsleep.training.checkpoint import is_local

FILE = "predictions.csv"
COLUMNS = ["row", "slice", "expected", "answered", "right"]


def predictions_folder(run: Any) -> str:
    """Where a run's predictions go, from its configuration: `default_root_dir` of the trainer, or else the folder of
    the checkpoint; the current one for weights that are not on a disk."""
    saved = run.get("ckpt_path") or ""
    beside = getattr(run.checkpoint, "dirpath", None) if saved == "last" else is_local(saved) and os.path.dirname(saved)
    return run.trainer.get("default_root_dir") or beside or ""


class PredictionWriter(L.Callback):
    """Writes predictions.csv into a folder, a line for each answer of the test rows or, of free text, for each row.

    Columns: `row`, as of `Task.row_numbers`, or else in the order of testing, from 0; `slice`; `expected` and
    `answered`, token ids separated by spaces; `right`, 1 or 0, whose mean is `test/exact`, unless the task has no
    answers; for a task on texts also `expected_text` and `answered_text`. Raises ValueError if there are several
    devices.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder, FILE)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            raise ValueError(f"devices of the trainer must be 1 to write predictions, got {trainer.world_size}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        check_output(self.path)
        self.n_rows = 0
        self.lines: list[tuple[int, int, str, str, int]] = []

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, *_: Any, **__: Any
    ) -> None:
        """Collects the answers of a batch. Raises SIGTERMException, which Lightning does not while it predicts."""
        if trainer.received_sigterm:
            raise SIGTERMException
        targets: Tensor = outputs["targets"]
        columns = (batch.slice, targets, outputs["predictions"], pl_module.task.answers(targets))
        numbers = [*range(self.n_rows, self.n_rows + len(targets))]
        if isinstance(rows := trainer.predict_dataloaders.dataset, HeldOutRows):
            numbers = rows.numbers(batch_idx) or numbers
        for row, level, *tokens in zip(numbers, *(x.tolist() for x in columns), strict=True):
            self.lines += [(row, level, *answer) for answer in answers_of(*tokens)]
        self.n_rows += len(targets)

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        table = pd.DataFrame(self.lines, columns=COLUMNS).sort_values("row", kind="stable")
        task = pl_module.task
        table = table if task.has_answers else table.drop(columns="right")
        if decode := getattr(task, "decode", None):
            for name in ("expected", "answered"):
                table[f"{name}_text"] = [decode(list(map(int, tokens.split()))) for tokens in table[name]]
        save_csv(self.path, table, quoting=QUOTE_NONNUMERIC)  # a text may have a bare \r, which else would end a line
        answers = f"{counted(len(self.lines), 'answers')} of " if task.has_answers else ""
        print(f"{os.path.relpath(self.path)}: {answers}{counted(self.n_rows, 'rows')}")


def answers_of(targets: list[int], predictions: list[int], answers: list[int]) -> list[tuple[str, str, int]]:
    """expected, answered and right of each answer of a row; `answers` as of `Task.answers`."""
    pairs = split_answers(answers, targets, predictions)
    return [(" ".join(map(str, a)), " ".join(map(str, b)), int(a == b)) for a, b in pairs]
