"""The hybrid model."""

from lmsleep.model.block import Mixer, PassContext
from lmsleep.model.config import ModelConfig
from lmsleep.model.contract import check_mixer
from lmsleep.model.hybrid import Blocks, HybridConfig, HybridLM, RunFn, Wake, check_model
from lmsleep.model.linear import SharedWeights
from lmsleep.model.lora import Lora
from lmsleep.model.mixers import register_mixer

__all__ = [
    "Blocks",
    "HybridConfig",
    "HybridLM",
    "Lora",
    "Mixer",
    "ModelConfig",
    "PassContext",
    "RunFn",
    "SharedWeights",
    "Wake",
    "check_mixer",
    "check_model",
    "register_mixer",
]
