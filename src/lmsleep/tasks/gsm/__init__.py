"""GSM-Infinite: word problems over a dependency graph, with as many distractors as a length asks for.

A problem on its way to a batch: `draws`, `world` and `definition` serve `graph` (what is asked, which values follow),
`problem` writes it out and fits it to a length, `encoder` makes tokens, `dataset` keeps rows on disk, `task` makes
batches. `solver` solves a text on its own, as a check.
"""

from lmsleep.tasks.gsm.dataset import Dataset, DatasetConfig, make_dataset
from lmsleep.tasks.gsm.encoder import TokenizerFile, WordVocabulary
from lmsleep.tasks.gsm.problem import ProblemConfig
from lmsleep.tasks.gsm.solver import Solution, solve
from lmsleep.tasks.gsm.task import MINI, GSMInfinite

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
]
