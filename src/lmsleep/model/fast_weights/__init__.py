"""Mixers that write fast weights."""

from lmsleep.model.fast_weights.gated_delta import GatedDelta
from lmsleep.model.fast_weights.jet import Jet
from lmsleep.model.fast_weights.mamba2 import Mamba2

__all__ = ["GatedDelta", "Jet", "Mamba2"]
