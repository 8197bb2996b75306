"""A callback for processes of the tests: ends its own process as a time limit or a lost machine does."""

import os
import signal
from pathlib import Path

import lightning as L


class EndOnce(L.Callback):
    """At a step, unless the file `mark` is there: sends its process SIGTERM, or kills it. A run that has the mark
    writes the step that it begins with into it."""

    def __init__(self, step: int, mark: str, kill: bool = False) -> None:
        self.step, self.mark, self.kill = step, Path(mark), kill

    def on_train_start(self, trainer, pl_module):
        if self.mark.exists():
            self.mark.write_text(f"{trainer.global_step}")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL if self.kill else signal.SIGTERM)
