"""GSM-Infinite: word problems over a dependency graph, with distractors up to a given length.

`graph` draws a question and its dependencies, with `draws`, `world` and `definition`; `problem` writes the text and
fits it to a length, `encoder` makes tokens, `dataset` draws rows, `stored` keeps them, `task` makes batches. `solver`
solves a text independently, as a check.
"""

from lmsleep.tasks.gsm.dataset import DatasetConfig, make_dataset
from lmsleep.tasks.gsm.encoder import TokenizerFile, WordVocabulary
from lmsleep.tasks.gsm.problem import ProblemConfig
from lmsleep.tasks.gsm.solver import Solution, solve
from lmsleep.tasks.gsm.stored import Dataset
from lmsleep.tasks.gsm.task import MINI, GSMInfinite

__all__ = ["MINI", "Dataset", "DatasetConfig", "GSMInfinite", "ProblemConfig", "Solution"]
__all__ += ["TokenizerFile", "WordVocabulary", "make_dataset", "solve"]
