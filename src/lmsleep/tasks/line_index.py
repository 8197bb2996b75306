"""An index of the lines of text files, or of the rows of a Hugging Face dataset.

Files are read once to index their lines; a line is read from disk when it is asked for.
"""

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from lmsleep.checks import first_line, sentence
from lmsleep.hub import HUB_NAME

TABLES = (".parquet", ".arrow")


def open_dataset(source: str) -> Any:
    """Opens a dataset, memory-mapped; None: `source` is a text file or a pattern of these.

    Args:
        source: .parquet or .arrow files, a folder, or a name on the hub (no extension); `:split` after it chooses the
            split, `train` by default.

    Raises:
        ValueError: if it cannot be read, or the package datasets is not installed.
    """
    name, _, split = source.partition(":")
    path, files = Path(name), sorted(glob(name, recursive=True))
    on_hub = not files and not path.suffix and HUB_NAME.fullmatch(name)
    if not (path.suffix in TABLES or path.is_dir() or on_hub):
        return None
    if path.suffix in TABLES and not files:
        return None  # refused later, as any missing file
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"{source} needs the package datasets: pip install datasets") from None
    datasets.disable_progress_bars()
    try:
        if path.suffix == ".parquet":
            return datasets.Dataset.from_parquet(files)  # pyright: ignore[reportArgumentType]
        if path.suffix == ".arrow":
            return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            dataset = datasets.load_from_disk(name)
            return dataset[split or "train"] if isinstance(dataset, datasets.DatasetDict) else dataset
        return datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # no network, no such dataset or split, a damaged file: there are many kinds
        raise ValueError(f"{source} cannot be read as a dataset: {first_line(error)}") from None


@dataclass(frozen=True, eq=False)
class LineIndex:
    """Indexed lines of text files; a row of `table` (n, 2 + k) has the number of the file, the byte offset of the line,
    and the k numbers that `measure` gave."""

    files: tuple[Path, ...]
    table: np.ndarray

    @classmethod
    def of(
        cls, pattern: str, field: str, measure: Callable[[str], tuple[int, ...] | None], column: str | None = None
    ) -> "LineIndex":
        """Indexes a dataset, a file or all files of a pattern. Raises ValueError if there is none or a line is bad."""
        files, records = (Path(pattern),), open_dataset(pattern)
        if records is None and not files[0].is_file():
            files = tuple(map(Path, sorted(glob(pattern, recursive=True))))
        if not files:
            raise ValueError(f"{field} must be a file or a pattern of files, but there is none at {pattern!r}")
        numbers, width = array("q"), 2
        for file, place, number, line in _lines_of(files) if records is None else _rows_of(records, column):
            try:
                measured = measure(line())
            except ValueError as error:
                raise ValueError(f"{files[file]}, line {number}: {sentence(error)}") from None
            if measured is not None:
                numbers.extend((file, place, *measured))
                width = 2 + len(measured)
        if not numbers:
            raise ValueError(f"{field} must have lines with text, found none in {pattern!r}")
        table = np.frombuffer(numbers, np.int64).reshape(-1, width)
        return cls(files, table) if records is None else DatasetIndex(files, table, records, column)

    @cached_property
    def ends(self) -> np.ndarray:
        """The end of each line, in tokens of the whole text, (n,)."""
        return np.cumsum(self.table[:, 2])

    def read(self, line: int) -> str:
        file, place = self.table[line, :2]
        with self.files[file].open("rb") as lines:
            lines.seek(place)
            return lines.readline().decode()


@dataclass(frozen=True, eq=False)
class DatasetIndex(LineIndex):
    """Rows of a dataset, as lines of JSON or the text of one column."""

    dataset: Any
    column: str | None

    def read(self, line: int) -> str:
        return _record_text(self.dataset[int(self.table[line, 1])], self.column)


Place = tuple[int, int, int, Callable[[], str]]  # number of its file, place in it, number from 1, the line


def _lines_of(files: Sequence[Path]) -> Iterator[Place]:
    for file, path in enumerate(files):
        with path.open("rb") as lines:
            place = 0
            for number, line in enumerate(lines, 1):
                yield file, place, number, line.decode
                place += len(line)


def _rows_of(records: Any, column: str | None) -> Iterator[Place]:
    for row, record in enumerate(records):
        yield 0, row, row + 1, partial(_record_text, record, column)


def _record_text(record: dict[str, Any], column: str | None) -> str:
    if column is None:
        return json.dumps(record, ensure_ascii=False, default=str)
    if not isinstance(text := record.get(column), str):
        raise ValueError(f"must have text in the column {column!r}, got {', '.join(record)}")
    return text if text.endswith("\n") else text + "\n"
