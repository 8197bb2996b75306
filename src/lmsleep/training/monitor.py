"""What checkpoints and early stopping monitor must be logged: Lightning looks for it at the first validation."""

import re
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from lmsleep.metrics import SCORES, SliceScores

SCORED = (*SCORES, "rows", "count", "perplexity")  # of any task
REPORTED = r"grad_norm|lr/(muon|adamw)|tokens_per_second|sleeps_per_row|change_of_S/pass-\d+|epoch|step"


def check_monitors(trainer: L.Trainer, module: Any) -> None:
    """Raises ValueError if a callback monitors a score that a run does not log, or, where all that logs is of this
    package, any other name."""
    if trainer.state.fn != TrainerFn.FITTING:
        return
    scores: SliceScores = module.scores
    names = [f"val/{name}" for name in scores.names]
    logged = {"train/loss", *names, *(f"{name}-{level}" for name in names for level in scores.slices)}
    logged |= {"train/exact"} if scores.has_answers else set()
    for keeper in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        watches = isinstance(keeper, ModelCheckpoint) or (isinstance(keeper, EarlyStopping) and keeper.strict)
        name = keeper.monitor if watches else None
        if name is None or name in logged or re.fullmatch(REPORTED, name):
            continue
        is_score = re.fullmatch(rf"(val|train|test)/({'|'.join(SCORED)})(-\d+)?", name)
        if is_score or not any(map(may_log, (module, *trainer.callbacks))):  # pyright: ignore
            allowed = f"train/loss, {', '.join(names)}, with a slice as {names[0]}-{scores.slices[0]} has it"
            free = is_score and not scores.has_answers
            why = "; rows of free text have no answers, which could be exact" if free else ""
            raise ValueError(f"monitor of {type(keeper).__name__} must be one of {allowed}, got {name!r}{why}")


def may_log(part: Any) -> bool:
    """Whether a callback or module may log metrics of its own."""
    return isinstance(part, LearningRateMonitor) or type(part).__module__.split(".")[0] not in ("lmsleep", "lightning")
