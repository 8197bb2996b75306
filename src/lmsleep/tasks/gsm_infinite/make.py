"""Makes datasets: rows drawn in parallel over cores, shard by shard."""

import logging
import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmsleep.tasks.base import SPLITS, stream
from lmsleep.tasks.gsm_infinite.dataset import (
    FORMAT,
    MANIFEST,
    Dataset,
    file_hash,
    json_hash,
    read_manifest,
    read_shard,
    shard_path,
    temporary_path,
    write_manifest,
    write_shard,
)
from lmsleep.tasks.gsm_infinite.draws import Draws
from lmsleep.tasks.gsm_infinite.encoder import Encoder, open_encoder
from lmsleep.tasks.gsm_infinite.problem import Problem, ProblemConfig, draw_problem

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetConfig:
    """Everything the rows of a dataset depend on, beside the tokenizer's file.

    Args:
        problem: what problems are drawn.
        train, val, test: rows of each split, multiples of the number of operation counts, which are exactly balanced.
        seed: of the random streams.
        shard_rows: rows of a shard.
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
    shard_rows: int = 1_024
    tokenizer: str | None = None
    eos_token: str = "<|endoftext|>"

    def __post_init__(self) -> None:
        n_ops = len(self.problem.slices)
        for split in SPLITS:
            if self.rows(split) < 0 or self.rows(split) % n_ops:
                raise ValueError(f"{split} must be a multiple of the {n_ops} operation counts, got {self.rows(split)}")
        if self.shard_rows < 1:
            raise ValueError(f"shard_rows must be 1 or more, got {self.shard_rows}")

    def rows(self, split: str) -> int:
        return getattr(self, split)

    def encoder(self) -> Encoder:
        """The encoder of the tokenizer, or of the words of the templates."""
        return open_encoder(self.tokenizer, self.problem.templates, self.problem.max_value, self.eos_token)

    def hash(self, encoder: Encoder) -> str:
        """Changes with everything a row depends on; where the tokenizer lies is not part of it."""
        return json_hash([FORMAT, asdict(replace(self, tokenizer=None)), encoder.sha256])

    def shards(self) -> Iterator["Shard"]:
        """All shards, split by split."""
        for split in SPLITS:
            for number, first in enumerate(range(0, self.rows(split), self.shard_rows)):
                yield Shard(split, number, range(first, min(first + self.shard_rows, self.rows(split))))


class Shard(NamedTuple):
    """Consecutive rows of a split, which lie in one file."""

    split: str
    number: int
    rows: range  # of the split


def draw_row(config: DatasetConfig, encoder: Encoder, split: str, row: int, seen: set[int]) -> Problem:
    """A row of a split: it has its own stream, and the operation count `row` modulo their number.

    The dataset is defined by `seen` being all rows of the split before it. A shard is drawn knowing only its own rows,
    which makes a difference to few rows.
    """
    op = config.problem.slices[row % len(config.problem.slices)]
    draws = Draws(stream(config.seed, split, row))
    return draw_problem(draws, config.problem, encoder, op=op, split=split, seen=seen)


def draw_shard(config: DatasetConfig, encoder: Encoder, shard: Shard) -> list[Problem]:
    """The rows of a shard, none of them twice."""
    seen: set[int] = set()
    problems = []
    for row in shard.rows:
        problems.append(draw_row(config, encoder, shard.split, row, seen))
        seen.add(problems[-1].fingerprint)
    return problems


def _arrays(problems: list[Problem]) -> dict[str, Any]:
    return {
        "tokens": np.concatenate([np.asarray(p.ids, np.int32) for p in problems]),
        "offsets": np.cumsum([0] + [len(p.ids) for p in problems]),
        "start": [p.start for p in problems],
        "op": [p.op for p in problems],
        "answer": [p.answer for p in problems],
        "fingerprint": np.asarray([p.fingerprint for p in problems], np.uint64),
    }


def _problems(arrays: dict[str, np.ndarray]) -> list[Problem]:
    rows = np.split(arrays["tokens"], arrays["offsets"][1:-1])
    columns = (arrays[name].tolist() for name in ("start", "answer", "op", "fingerprint"))
    return [Problem(ids.tolist(), *fields) for ids, *fields in zip(rows, *columns, strict=True)]


def _make_shard(folder: Path, config: DatasetConfig, config_hash: str, shard: Shard) -> Shard:
    write_shard(_path(folder, shard), _arrays(draw_shard(config, _encoder(config), shard)), config_hash)
    return shard


_encoders: dict[DatasetConfig, Encoder] = {}  # one for each worker process: opening a large tokenizer takes a second


def _encoder(config: DatasetConfig) -> Encoder:
    if config not in _encoders:
        _encoders[config] = config.encoder()
    return _encoders[config]


def make_dataset(folder: str | Path, config: DatasetConfig, workers: int = 1) -> dict[str, Any]:
    """Draw, de-duplicate and write a dataset; see `dataset` for the format.

    The result depends on the configuration alone, whatever the number of workers. Called again after an interruption it
    keeps the finished shards; called on a finished folder of the same configuration it verifies the checksums and
    writes nothing.

    Args:
        folder: where to write; made if it does not exist.
        config: what to write.
        workers: processes that draw rows.

    Returns:
        the manifest.

    Raises:
        ValueError: if no problem can satisfy the configuration (nothing is written then), if the folder holds a dataset
            of another configuration, or if a finished dataset is damaged.
    """
    folder = Path(folder)
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    encoder = _encoder(config)
    config_hash = config.hash(encoder)
    if (folder / MANIFEST).exists():
        if read_manifest(folder)["config_sha256"] != config_hash:
            raise ValueError(
                f"folder: {folder} holds a dataset of another configuration; delete it or choose another folder"
            )
        return Dataset(folder).manifest
    _try_all_kinds(config, encoder)
    _make_shards(folder, config, config_hash, workers)
    write_manifest(folder, _manifest(folder, config, encoder, config_hash))
    return read_manifest(folder)


def _make_shards(folder: Path, config: DatasetConfig, config_hash: str, workers: int) -> None:
    """Make the shards that are not there yet; where that turns out to be impossible, leave none."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        todo = [shard for shard in config.shards() if read_shard(_path(folder, shard), config_hash) is None]
        for shard in _run(partial(_make_shard, folder, config, config_hash), todo, workers):
            log.info("wrote %s", _path(folder, shard))
        _part_duplicates(folder, config, config_hash)
    except ValueError:
        for shard in config.shards():
            _path(folder, shard).unlink(missing_ok=True)
            temporary_path(_path(folder, shard)).unlink(missing_ok=True)  # of a worker that was stopped
        if made:
            folder.rmdir()
        raise


def _path(folder: Path, shard: Shard) -> Path:
    return shard_path(folder, shard.split, shard.number)


def _run(make: partial[Shard], shards: list[Shard], workers: int) -> Iterable[Shard]:
    if workers == 1 or len(shards) == 1:
        yield from map(make, shards)
        return
    # Fresh processes: a fork would copy locks that torch's or the tokenizer's threads may hold.
    with multiprocessing.get_context("spawn").Pool(min(workers, len(shards))) as pool:
        yield from pool.imap_unordered(make, shards)


def _try_all_kinds(config: DatasetConfig, encoder: Encoder) -> None:
    """Draw one problem of every kind, so that what cannot be drawn is found before anything is written."""
    for op in config.problem.slices:
        for template in set(config.problem.templates):
            for layers in set(config.problem.layers):
                one_kind = replace(config.problem, templates=(template,), layers=(layers,))
                draw_problem(Draws(stream(config.seed, "train", 0)), one_kind, encoder, op=op, split="train")


def _part_duplicates(folder: Path, config: DatasetConfig, config_hash: str) -> None:
    """Draw each row again, in order, whose problem an earlier row of its split has."""
    seen: dict[str, set[int]] = {split: set() for split in SPLITS}
    for shard in config.shards():
        arrays = read_shard(_path(folder, shard), config_hash)
        if arrays is None:
            raise ValueError(f"{_path(folder, shard)} was damaged or removed while the dataset was made")
        earlier, again = seen[shard.split], {}
        for i, mark in enumerate(arrays["fingerprint"].tolist()):
            if mark in earlier:
                again[i] = draw_row(config, _encoder(config), shard.split, shard.rows[i], earlier)
            earlier.add(again[i].fingerprint if i in again else mark)
        if again:
            problems = [again.get(i, problem) for i, problem in enumerate(_problems(arrays))]
            write_shard(_path(folder, shard), _arrays(problems), config_hash)


def _manifest(folder: Path, config: DatasetConfig, encoder: Encoder, config_hash: str) -> dict[str, Any]:
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for shard in config.shards():
        path = _path(folder, shard)
        splits[shard.split].append({"file": path.name, "rows": len(shard.rows), "sha256": file_hash(path)})
    vocabulary = {"name": encoder.name, "size": encoder.vocab_size, "sha256": encoder.sha256}
    return {
        "format": FORMAT,
        "config": asdict(replace(config, tokenizer=None)),
        "config_sha256": config_hash,
        "vocabulary": vocabulary | {"pad_id": encoder.pad_id, "eos_id": encoder.eos_id},
        "splits": splits,
    }
