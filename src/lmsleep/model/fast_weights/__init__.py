"""Mixers that write fast weights."""

from lmsleep.model.fast_weights.gated_delta import GatedDelta

__all__ = ["GatedDelta"]
