"""The hybrid model."""

from lmsleep.model.block import Mixer, register_mixer
from lmsleep.model.config import HybridConfig
from lmsleep.model.hybrid import HybridLM, Wake

__all__ = ["HybridConfig", "HybridLM", "Mixer", "Wake", "register_mixer"]
