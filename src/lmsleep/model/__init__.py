"""The hybrid model."""

from lmsleep.model.config import HybridConfig
from lmsleep.model.hybrid import HybridLM, Wake

__all__ = ["HybridConfig", "HybridLM", "Wake"]
