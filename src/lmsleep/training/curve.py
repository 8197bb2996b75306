"""The learning curve of a run, kept in its checkpoints, so that a resumed run has all of it."""

from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import lightning as L
import pandas as pd

from lmsleep.atomic import check_output, save_csv
from lmsleep.checks import checked, require
from lmsleep.data import RowsDataModule
from lmsleep.training.report import all_steps


class LearningCurve(L.Callback):
    """Writes the validation scores against tokens read as CSV.

    Args:
        path: the file, with columns step, tokens and one per score (`exact`, `loss`, `exact-<slice>`, ...).
        label: starts a line printed after each validation, for runs without a progress bar; None: no line.
    """

    @checked
    def __init__(self, path: str = "curve.csv", label: str | None = None) -> None:
        self.path, self.label = Path(path), label
        self.rows: list[dict[str, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives a run that is shorter than the validation interval a validation at its end."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        check_output(self.path, "path of the learning curve")
        batches, interval = trainer.max_steps * trainer.accumulate_grad_batches, trainer.val_check_batch
        if interval is not None and 0 < batches < interval:
            trainer.val_check_batch = batches

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        scores = {k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        # One row a step: with accumulated gradients, or after a resume, a step is validated several times.
        self.rows = [row for row in self.rows if row["step"] != trainer.global_step]
        self.rows.append({"step": trainer.global_step, "tokens": tokens_read(trainer), **scores})
        save_csv(self.path, pd.DataFrame(self.rows))
        if self.label:
            text = ", ".join(f"{name} {scores[name]:.3f}" for name in ("loss", "exact") if name in scores)
            print(f"{self.label}: step {trainer.global_step:,} of {all_steps(trainer)}, {text}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rows = list(state_dict["rows"])
        sound = all(isinstance(row, dict) and type(row.get("step")) is int for row in rows)
        require(sound, "rows of LearningCurve in the checkpoint must each have a step", shortened(rows))
        self.rows = rows


def tokens_read(trainer: L.Trainer) -> int:
    """Tokens that a run has read in training."""
    data: RowsDataModule = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    return (trainer.fit_loop.total_batch_idx + 1) * data.tokens_per_batch
