"""Streaming inference."""

from lmsleep.runtime.events import SleepEvent
from lmsleep.runtime.prompter import Prompter
from lmsleep.runtime.reader import StreamReader
from lmsleep.runtime.session import Session

__all__ = ["Prompter", "Session", "SleepEvent", "StreamReader"]
