"""GSM-Infinite: word problems over a dependency graph, with as many distractors as a length asks for.

`draws`, `worlds` and `structure` serve `core` (dependency graph and values), `questions` says what is asked for,
`problem` writes it out, `encoder` makes tokens, `solver` solves a text on its own, `make`, `dataset` and `verify`
write, read and check folders, `buckets` and `task` make batches.
"""

from lmsleep.tasks.gsm_infinite.dataset import Dataset
from lmsleep.tasks.gsm_infinite.encoder import TokenizerFile, WordVocabulary
from lmsleep.tasks.gsm_infinite.make import DatasetConfig, make_dataset
from lmsleep.tasks.gsm_infinite.problem import ProblemConfig
from lmsleep.tasks.gsm_infinite.solver import Solution, solve
from lmsleep.tasks.gsm_infinite.task import MINI, GSMInfinite
from lmsleep.tasks.gsm_infinite.verify import verify_dataset

__all__ = [
    "MINI",
    "Dataset",
    "DatasetConfig",
    "GSMInfinite",
    "ProblemConfig",
    "Solution",
    "TokenizerFile",
    "WordVocabulary",
    "make_dataset",
    "solve",
    "verify_dataset",
]
