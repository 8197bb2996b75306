"""The hybrid model."""

from lmsleep.model.block import Mixer
from lmsleep.model.hybrid import Blocks, HybridConfig, HybridLM, Run, Wake, register_mixer
from lmsleep.model.lora import Lora

__all__ = ["Blocks", "HybridConfig", "HybridLM", "Lora", "Mixer", "Run", "Wake", "register_mixer"]
