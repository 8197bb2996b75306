"""The hybrid model."""

from lmsleep.model.hybrid import Blocks, HybridConfig, HybridLM, Mixer, Run, Wake, register_mixer

__all__ = ["Blocks", "HybridConfig", "HybridLM", "Mixer", "Run", "Wake", "register_mixer"]
