"""Problems on disk.

A folder holds `manifest.json` and, for each split, shards `<split>-<number>.safetensors` of consecutive rows. A shard
has the tensors

    tokens       (all tokens of its rows,) int32: prompt, answer, end of sequence; row after row, no padding
    offsets      (rows + 1,) int64: row r is tokens[offsets[r] : offsets[r + 1]]
    start        (rows,) int32: position, within its row, of the first answer token
    op           (rows,) int32: operations of the problem
    answer       (rows,) int32: the answer as a number
    fingerprint  (rows,) uint64: hash of the sorted core sentences and the question; no two rows of a folder share one

and the metadata `sha256`, a hash over the tensors and everything its rows depend on, by which an interrupted run knows
its finished shards. The manifest holds the format, the configuration, the vocabulary (name, size, hash, padding and
end-of-sequence ids), the shards of each split with rows and SHA-256 of the file, and a SHA-256 of itself. It is written
last: a folder without one is unfinished.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from lmsleep.tasks.base import SPLITS
from lmsleep.tasks.gsm_infinite.encoder import Encoder

FORMAT = "lmsleep gsm-infinite 2"
MANIFEST = "manifest.json"
_DTYPES = {
    "tokens": np.int32,
    "offsets": np.int64,
    "start": np.int32,
    "op": np.int32,
    "answer": np.int32,
    "fingerprint": np.uint64,
}


def json_hash(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shard_hash(arrays: Mapping[str, np.ndarray], config_hash: str) -> str:
    digest = hashlib.sha256(config_hash.encode())
    for name in _DTYPES:
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def shard_path(folder: Path, split: str, number: int) -> Path:
    """Where a shard of a split lies."""
    return folder / f"{split}-{number:05d}.safetensors"


def temporary_path(path: Path) -> Path:
    """Where a file is written before it gets its name: always the same place, so that what a killed run left there is
    found again."""
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A temporary file that takes its final name when the block ends: under that name every file is whole."""
    temporary = temporary_path(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_shard(path: Path, arrays: Mapping[str, Any], config_hash: str) -> None:
    """Write a shard, whole or not at all."""
    typed = {name: np.asarray(arrays[name], dtype) for name, dtype in _DTYPES.items()}
    with _renamed(path) as temporary:
        # One entry only: the library writes several in an order that changes from run to run.
        save_file(typed, temporary, {"sha256": _shard_hash(typed, config_hash)})


def read_shard(path: Path, config_hash: str) -> dict[str, np.ndarray] | None:
    """The tensors of a shard; None where it is missing, damaged or of another configuration."""
    try:
        arrays = load_file(path)
        with safe_open(path, "np") as shard:
            whole = (shard.metadata() or {}).get("sha256") == _shard_hash(arrays, config_hash)
    except (OSError, SafetensorError, KeyError):
        return None
    return arrays if whole else None


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest with its own hash, whole or not at all."""
    with _renamed(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest | {"sha256": json_hash(manifest)}, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        ValueError: if there is none, or it is not as it was written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"path: {folder} holds no finished dataset (no {MANIFEST})")
    try:
        manifest = json.loads(path.read_text())
        stated = manifest.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{path} is damaged: it does not read as a manifest; make the dataset again") from None
    if stated != json_hash(manifest) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is damaged or of another format than {FORMAT!r}; make the dataset again")
    return manifest


class Dataset:
    """A finished folder whose checksums have been verified; rows are read from disk when they are asked for.

    Args:
        folder: what `make_dataset` wrote.
        encoder: the tokenizer of the model, if its vocabulary is to be compared with that of the dataset.

    Raises:
        ValueError: if a file is missing or damaged, or the vocabulary is another one.
    """

    def __init__(self, folder: str | Path, encoder: Encoder | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        vocabulary = self.manifest["vocabulary"]
        if encoder is not None and encoder.sha256 != vocabulary["sha256"]:
            raise ValueError(
                f"tokenizer: {self.folder} was made with another vocabulary ({vocabulary['name']}, "
                f"{vocabulary['size']} tokens) than the one given ({encoder.name}, {encoder.vocab_size} tokens)"
            )
        for shards in self.manifest["splits"].values():
            for shard in shards:
                path = self.folder / shard["file"]
                if not path.is_file():
                    raise ValueError(f"{path} is missing; make the dataset again")
                if file_hash(path) != shard["sha256"]:
                    raise ValueError(
                        f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}; delete it and make it again"
                    )

    def split(self, split: str) -> "Split":
        """Raises: ValueError: if the dataset has no row of this split."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if not self.manifest["splits"][split]:
            raise ValueError(f"split: {self.folder} has no row of {split!r}")
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[str, "Split"]:
        splits = self.manifest["splits"]
        return {name: Split([self.folder / s["file"] for s in shards]) for name, shards in splits.items() if shards}


class Split:
    """The rows of one split, in the order of their shards.

    `starts`, `lengths`, `ops`, `answers`, `fingerprints`: (rows,), as in the module's docstring; a length counts all
    tokens of the row.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._shards = [safe_open(path, "np") for path in paths]
        self._tokens = [shard.get_slice("tokens") for shard in self._shards]
        offsets = [shard.get_tensor("offsets") for shard in self._shards]
        self._begin = np.concatenate([o[:-1] for o in offsets])
        self._shard = np.repeat(np.arange(len(offsets)), [len(o) - 1 for o in offsets])
        self.lengths = np.concatenate([np.diff(o) for o in offsets])
        self.starts, self.ops, self.answers, self.fingerprints = (
            np.concatenate([shard.get_tensor(name) for shard in self._shards])
            for name in ("start", "op", "answer", "fingerprint")
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, row: int) -> np.ndarray:
        """All tokens of a row, (length,) int32."""
        begin = int(self._begin[row])
        return self._tokens[self._shard[row]][begin : begin + int(self.lengths[row])]
