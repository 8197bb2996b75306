"""Stored problems: one file a split, verified whenever they are opened.

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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lmsleep.atomic import atomic_write
from lmsleep.checks import parse_json
from lmsleep.tasks.base import SPLITS, check_split
from lmsleep.tasks.gsm.encoder import Encoder

FORMAT = "lmsleep gsm-infinite dataset 3"
METADATA = "lmsleep.gsm"
DTYPES = dict.fromkeys(("tokens", "offsets", "start", "op", "answer"), np.int32)
DTYPES |= {"offsets": np.int64, "fingerprint": np.uint64}


def split_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"{split}.safetensors"


def write_split(path: Path, provenance: dict[str, Any], arrays: Mapping[str, Any]) -> None:
    """Writes the file of a split atomically."""
    typed = {name: np.asarray(arrays[name], dtype) for name, dtype in DTYPES.items()}
    # One entry only: the library writes several in an order that changes from run to run.
    header = {"made": provenance, "sha256": _checksum(path, provenance, typed)}
    with atomic_write(path) as temporary:
        save_file(typed, temporary, {METADATA: json.dumps(header)})


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
        self._splits = {split: Split(path) for split in SPLITS if (path := split_path(folder, split)).exists()}
        if not self._splits:
            raise ValueError(f"path: {folder} holds no dataset, that is, no train.safetensors, val.safetensors, ...")
        provenance = next(iter(self._splits.values())).provenance
        self.config, self.vocabulary = provenance["config"], provenance["vocabulary"]
        for split in SPLITS:
            path, stored = split_path(folder, split), self._splits.get(split)
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
