"""Problems drawn in parallel, without duplicates, into the files of `stored.py`."""

import json
import multiprocessing
from collections.abc import Container
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from lmsleep.atomic import check_folder
from lmsleep.checks import check_integer, check_types, require
from lmsleep.signals import deaf_to_ctrl_c
from lmsleep.tasks.base import MAX_ROWS, SPLITS, stream
from lmsleep.tasks.gsm.draws import Draws
from lmsleep.tasks.gsm.encoder import Encoder, TokenizerFile, WordVocabulary
from lmsleep.tasks.gsm.problem import Problem, ProblemConfig, draw_problem
from lmsleep.tasks.gsm.stored import FORMAT, Dataset, Split, split_path, write_split


@dataclass(frozen=True)
class DatasetConfig:
    """All that the rows of a dataset depend on, besides the tokenizer's file.

    Args:
        problem: what problems are drawn.
        train, val, test: rows of each split, multiples of the number of operation counts, which are balanced exactly.
        seed: of the random streams.
        tokenizer: path of a tokenizer.json; None for the built-in vocabulary of words.
        eos_token: end of sequence in that tokenizer.

    Raises:
        ValueError: if an argument is out of range.
    """

    problem: ProblemConfig = field(default_factory=ProblemConfig)
    train: int = 84_992
    val: int = 800
    test: int = 1_600
    seed: int = 0
    tokenizer: str | None = None
    eos_token: str = "<|endoftext|>"

    def __post_init__(self) -> None:
        check_types(self)
        n_ops = len(self.problem.slices)
        for split in SPLITS:
            rows = self.rows(split)
            check_integer(split, rows, 0, MAX_ROWS)
            require(rows % n_ops == 0, f"{split} must be a multiple of the {n_ops} operation counts", rows)
        if not any(map(self.rows, SPLITS)):
            raise ValueError(f"{', '.join(SPLITS)}: one of them must have rows, all are 0")

    def rows(self, split: str) -> int:
        return getattr(self, split)


def make_dataset(folder: str | Path, config: DatasetConfig, workers: int = 1) -> Dataset:
    """Draws a dataset without duplicates and writes it; the files depend on the configuration alone.

    Files that are there already, made with the same configuration, are checked and kept.

    Args:
        folder: where to write; made if it does not exist.
        workers: processes that draw rows.

    Raises:
        ValueError: if no problem can satisfy the configuration (nothing is written then), if the folder holds a dataset
            of another configuration or cannot be one, or if a file in it is damaged.
    """
    require(workers >= 1, "workers must be 1 or more", workers)
    check_folder(folder)
    encoder = dataset_encoder(config)
    provenance = _provenance(config, encoder)
    paths = {split: split_path(folder, split) for split in SPLITS}
    for path in filter(Path.exists, paths.values()):
        if Split(path).provenance != provenance:
            raise ValueError(f"folder: {path} was made with another configuration; delete it or choose another folder")
    missing = [split for split in SPLITS if config.rows(split) and not paths[split].exists()]
    drawn = {split: _arrays(draw_split(config, split, workers)) for split in missing}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for split, arrays in drawn.items():
        write_split(paths[split], provenance, arrays)
    return Dataset(folder, encoder)


def draw_split(config: DatasetConfig, split: str, workers: int = 1) -> list[Problem]:
    """The rows of a split, without duplicates: each is the first of its own stream that no earlier row equals."""
    draw, rows = partial(_draw_row, config, split), range(config.rows(split))
    console, seen = Console(stderr=True), set()
    problems: list[Problem] = []
    with fresh_processes(workers) if workers > 1 else nullcontext() as pool:
        drawn = pool.imap(draw, rows, chunksize=64) if pool else map(draw, rows)
        drawn = track(drawn, split, len(rows), console=console, disable=not console.is_terminal)
        for row, problem in enumerate(drawn):
            problems.append(draw(row, seen) if problem.fingerprint in seen else problem)
            seen.add(problems[-1].fingerprint)
    return problems


def fresh_processes(count: int) -> Pool:
    """Processes that are no forks, which would copy locks that torch's or the tokenizer's threads may hold, and leave
    Ctrl-C to this one."""
    with deaf_to_ctrl_c():
        return multiprocessing.get_context("spawn").Pool(count)


def _draw_row(config: DatasetConfig, split: str, row: int, seen: Container[int] = ()) -> Problem:
    """A row of a split: from its own stream, with the operation count `row` modulo their number."""
    op = config.problem.slices[row % len(config.problem.slices)]
    draws = Draws(stream(config.seed, split, row))
    problem = draw_problem(draws, config.problem, dataset_encoder(config), op=op, split=split, seen=seen)
    return problem._replace(ids=np.asarray(problem.ids, np.int32))  # a tenth of the memory of a list


@lru_cache(maxsize=1)
def dataset_encoder(config: DatasetConfig) -> Encoder:
    """The encoder of the tokenizer, or of the words of the templates; cached, since opening it takes a second."""
    if config.tokenizer is None:
        return WordVocabulary(config.problem.templates, config.problem.max_value)
    return TokenizerFile(config.tokenizer, config.eos_token)


def _provenance(config: DatasetConfig, encoder: Encoder) -> dict[str, Any]:
    ids: dict[str, Any] = {"size": encoder.vocab_size, "pad_id": encoder.pad_id, "eos_id": encoder.eos_id}
    vocabulary = ids | {"sha256": encoder.sha256}  # in place of the tokenizer's path
    provenance = {"format": FORMAT, "config": asdict(replace(config, tokenizer=None)), "vocabulary": vocabulary}
    return json.loads(json.dumps(provenance))  # tuples become lists, as in the file


def _arrays(problems: list[Problem]) -> dict[str, Any]:
    columns = {name: [getattr(p, name) for p in problems] for name in ("start", "op", "answer", "fingerprint")}
    offsets = np.cumsum([0, *(len(p.ids) for p in problems)])
    return columns | {"tokens": np.concatenate([p.ids for p in problems]), "offsets": offsets}
