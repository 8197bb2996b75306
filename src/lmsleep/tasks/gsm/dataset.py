"""Stored problems: drawn in parallel, one file a split, verified whenever they are opened.

A folder holds, for each split that has rows, `<split>.safetensors` with the tensors

    tokens       (all tokens of its rows,) int32: prompt, answer, end of sequence; row after row, no padding
    offsets      (rows + 1,) int64: row r is tokens[offsets[r] : offsets[r + 1]]
    start        (rows,) int32: position, within its row, of the first answer token
    op           (rows,) int32: operations of the problem
    answer       (rows,) int32: the answer as a number
    fingerprint  (rows,) uint64: hash of the sorted core sentences and the question; no two rows of a folder share one

and one entry of metadata, `lmsleep.gsm`, JSON with `made`, the same in all files (format, configuration, and of the
vocabulary size, hash, padding and end-of-sequence ids), and `sha256`, over `made`, the split's name and the tensors.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Container, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lmsleep.atomic import atomic_write, check_folder
from lmsleep.checks import check_integer, parse_json, require
from lmsleep.tasks.base import MAX_ROWS, SPLITS, check_split, stream
from lmsleep.tasks.gsm.draws import Draws
from lmsleep.tasks.gsm.encoder import Encoder, TokenizerFile, WordVocabulary
from lmsleep.tasks.gsm.problem import Problem, ProblemConfig, draw_problem

FORMAT = "lmsleep gsm-infinite dataset 3"
METADATA = "lmsleep.gsm"
DTYPES = dict.fromkeys(("tokens", "offsets", "start", "op", "answer"), np.int32)
DTYPES |= {"offsets": np.int64, "fingerprint": np.uint64}


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
        n_ops = len(self.problem.slices)
        for split in SPLITS:
            rows = self.rows(split)
            check_integer(split, rows, 0, MAX_ROWS)
            require(rows % n_ops == 0, f"{split} must be a multiple of the {n_ops} operation counts", rows)
        if not any(map(self.rows, SPLITS)):
            raise ValueError(f"{', '.join(SPLITS)}: one of them must have rows, all are 0")

    def rows(self, split: str) -> int:
        return getattr(self, split)


def make_dataset(folder: str | Path, config: DatasetConfig, workers: int = 1) -> "Dataset":
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
    paths = {split: _path(folder, split) for split in SPLITS}
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
    # Fresh processes: a fork would copy locks that torch's or the tokenizer's threads may hold.
    with multiprocessing.get_context("spawn").Pool(workers) if workers > 1 else nullcontext() as pool:
        drawn = pool.imap(draw, rows, chunksize=64) if pool else map(draw, rows)
        drawn = track(drawn, split, len(rows), console=console, disable=not console.is_terminal)
        for row, problem in enumerate(drawn):
            problems.append(draw(row, seen) if problem.fingerprint in seen else problem)
            seen.add(problems[-1].fingerprint)
    return problems


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


def write_split(path: Path, provenance: dict[str, Any], arrays: Mapping[str, Any]) -> None:
    """Writes the file of a split atomically."""
    typed = {name: np.asarray(arrays[name], dtype) for name, dtype in DTYPES.items()}
    # One entry only: the library writes several in an order that changes from run to run.
    header = {"made": provenance, "sha256": _checksum(path, provenance, typed)}
    with atomic_write(path) as temporary:
        save_file(typed, temporary, {METADATA: json.dumps(header)})


def _path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"{split}.safetensors"


def _checksum(path: Path, provenance: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps([path.stem, provenance], sort_keys=True).encode())
    for name in DTYPES:
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


class Dataset:
    """A stored dataset, verified against its checksums; rows are read from disk on demand.

    Args:
        folder: written by `make_dataset`.
        encoder: the model's, to compare its vocabulary with that of the dataset; None: not compared.

    Attributes:
        config, vocabulary: of the dataset, as plain values.

    Raises:
        ValueError: if a file is missing, damaged or of another configuration, or the vocabularies differ.
    """

    def __init__(self, folder: str | Path, encoder: Encoder | None = None) -> None:
        self.folder = Path(folder)
        self._splits = {split: Split(path) for split in SPLITS if (path := _path(folder, split)).exists()}
        if not self._splits:
            raise ValueError(f"path: {folder} holds no dataset, that is, no train.safetensors, val.safetensors, ...")
        provenance = next(iter(self._splits.values())).provenance
        self.config, self.vocabulary = provenance["config"], provenance["vocabulary"]
        for split in SPLITS:
            path, stored = _path(folder, split), self._splits.get(split)
            if stored is not None and stored.provenance != provenance:
                raise ValueError(f"{path} was made otherwise than a file beside it; delete it and make it again")
            if stored is None and self.config[split]:
                raise ValueError(f"{path} is missing; make the dataset again")
        if encoder is not None and encoder.sha256 != self.vocabulary["sha256"]:
            raise ValueError(
                f"tokenizer: {folder} was made with another vocabulary (of {self.vocabulary['size']} tokens) than the "
                f"one given ({encoder.name}, {encoder.vocab_size} tokens)"
            )

    def __reduce__(self) -> tuple[type["Dataset"], tuple[Path]]:
        return Dataset, (self.folder,)  # open files cannot be sent to another process

    @property
    def sha256(self) -> str:
        """Hash of all rows and their configuration."""
        return hashlib.sha256("".join(split.sha256 for split in self._splits.values()).encode()).hexdigest()

    def split(self, split: str) -> "Split":
        """The rows of a split. Raises ValueError if there are none."""
        check_split(split)
        if split not in self._splits:
            raise ValueError(f"split: {self.folder} has no row of {split!r}")
        return self._splits[split]


class Split:
    """The rows of one split.

    `starts`, `lengths`, `ops`, `answers`, `fingerprints`: (rows,), as in the module's docstring; a length counts all
    tokens of the row. Raises ValueError if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            file = safe_open(path, "np")
            header = parse_json((file.metadata() or {})[METADATA])
            arrays = {name: file.get_tensor(name) for name in DTYPES}
            if _checksum(path, header["made"], arrays) != header["sha256"] or header["made"]["format"] != FORMAT:
                raise ValueError
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):  # TypeError: JSON of another shape
            raise ValueError(f"{path} is damaged or not a {FORMAT!r}; delete it and make it again") from None
        self.provenance, self.sha256 = header["made"], header["sha256"]
        self._tokens = file.get_slice("tokens")  # read from disk when asked for
        self._begin = arrays["offsets"][:-1]
        self.lengths = np.diff(arrays["offsets"])
        self.starts, self.ops, self.answers = (arrays[name] for name in ("start", "op", "answer"))
        self.fingerprints = arrays["fingerprint"]

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, row: int) -> np.ndarray:
        """All tokens of a row, (length,) int32."""
        begin = int(self._begin[row])
        return self._tokens[begin : begin + int(self.lengths[row])]
