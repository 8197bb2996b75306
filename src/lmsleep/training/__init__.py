"""Training with Lightning."""

from lmsleep.training.callbacks import Recipe, SleepCallback
from lmsleep.training.checkpoint import LastCheckpoint
from lmsleep.training.curve import LearningCurve
from lmsleep.training.module import SleepModule
from lmsleep.training.nonfinite import StopOnNonFinite
from lmsleep.training.optimizer import MuonAdamW, OptimizerConfig
from lmsleep.training.recipe import DrawPasses, WarmupStage
from lmsleep.training.report import RunReport

__all__ = ["DrawPasses", "LastCheckpoint", "LearningCurve", "MuonAdamW", "OptimizerConfig", "Recipe"]
__all__ += ["RunReport", "SleepCallback", "SleepModule", "StopOnNonFinite", "WarmupStage"]
