"""Streaming inference."""

from lmsleep.runtime.events import SleepEvent
from lmsleep.runtime.session import Session

__all__ = ["Session", "SleepEvent"]
