"""The hybrid model."""

from lmsleep.model.hybrid import HybridConfig, HybridLM, Mixer, Wake, register_mixer

__all__ = ["HybridConfig", "HybridLM", "Mixer", "Wake", "register_mixer"]
