"""Tasks: one file each, with generator, vocabulary and row layout."""

from lmsleep.tasks.base import IGNORE, Batch, Task
from lmsleep.tasks.check import check_task
from lmsleep.tasks.depo import Depo
from lmsleep.tasks.documents import Documents
from lmsleep.tasks.gsm import GSMInfinite
from lmsleep.tasks.rule110 import Rule110
from lmsleep.tasks.text_base import TextTask
from lmsleep.tasks.text_lm import TextLM
from lmsleep.tasks.text_qa import TextQA

__all__ = ["IGNORE", "Batch", "Depo", "Documents", "GSMInfinite", "Rule110"]
__all__ += ["Task", "TextLM", "TextQA", "TextTask", "check_task"]
