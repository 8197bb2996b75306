"""An index of the lines of text files, of whole files, or of the rows of a Hugging Face dataset.

Files are read once to index their lines; a line is read from disk when it is asked for.
"""

import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from glob import escape, glob
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lmsleep.checks import decode_text, first_line, naming_file, sentence
from lmsleep.hub import HUB_NAME

Parsed = TypeVar("Parsed")
TABLES = (".parquet", ".arrow", ".csv")
ROWS = {".jsonl", *TABLES}  # of files that hold rows, as .json does where there is nothing else
LONG = 1_000_000  # bytes, from which on reading is spoken of: it takes seconds


def holds_documents(source: str) -> bool:
    """Whether files, a folder or a pattern are documents of text, rather than rows with fields: by their extensions."""
    files = text_files(source, whole=True)
    if not files and not Path(source).is_dir():
        files = (Path(source if Path(source).suffix else f"{source}.json"),)  # a name on the hub has none
    return rows_among(files) is None


def rows_among(files: Sequence[Path]) -> Path | None:
    """The first of files that makes all of them rows, by its extension; None: they are documents of text."""
    alone = {path.suffix for path in files} == {".json"}
    return next((path for path in files if alone or path.suffix in ROWS), None)


def text_files(source: str, whole: bool = False) -> tuple[Path, ...]:
    """The file, the files of a pattern or, if `whole` files are wanted, all below a folder; of the last two no hidden
    ones, and each once, however many links lead to it: a copy would be trained on and held out."""
    if Path(source).is_file():
        return (Path(source),)
    below = whole and Path(source).is_dir()
    found: dict[Path, Path] = {}
    for path in find_paths(f"{escape(str(Path(source)))}/**" if below else source):
        if path.is_file():
            found.setdefault(path.resolve(), path)
    return tuple(found.values())


def find_paths(pattern: str) -> list[Path]:
    """What a pattern matches, sorted. Raises OSError on a folder that cannot be read, over which `glob` passes."""
    for i, part in enumerate(parts := Path(pattern).parts):
        if escape(part) != part:
            above = os.path.join("", *parts[: i + (part == "**")], "")
            for folder in glob(above, recursive=True) if above else ["."]:
                os.scandir(folder).close()
    return [Path(path) for path in sorted(glob(pattern, recursive=True))]


def open_dataset(source: str) -> Any:
    """Opens a dataset, memory-mapped unless it is a .csv file; None: `source` is a text file or a pattern of these.

    Args:
        source: .parquet, .arrow or .csv files, a folder, or a name on the hub (no extension); `:split` after it
            chooses the split, `train` by default. Every cell of a .csv file is text.

    Raises:
        ValueError: if it cannot be read, or the package datasets is not installed.
    """
    name, _, split = source.partition(":")
    path, files = Path(name), [str(file) for file in find_paths(name)]
    on_hub = not files and not path.suffix and HUB_NAME.fullmatch(name)
    if not (path.suffix in TABLES or path.is_dir() or on_hub):
        return None
    if path.suffix in TABLES and not files:
        return None  # refused later, as any missing file
    note = _note_of_kinds(name)
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"{source} needs the package datasets: pip install datasets{note}") from None
    datasets.disable_progress_bars()
    try:
        if path.suffix == ".parquet":
            return datasets.Dataset.from_parquet(files)  # pyright: ignore[reportArgumentType]
        if path.suffix == ".csv":
            import pandas as pd  # slow to import

            tables = [pd.read_csv(file, dtype=str, keep_default_na=False) for file in files]  # 007 and NA are texts
            return datasets.Dataset.from_pandas(pd.concat(tables), preserve_index=False)
        if path.suffix == ".arrow":
            return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            dataset = datasets.load_from_disk(name)
            return dataset[split or "train"] if isinstance(dataset, datasets.DatasetDict) else dataset
        return datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # no network, no such dataset or split, a damaged file: there are many kinds
        guesses = note and type(error).__name__ != "DatasetGenerationError"  # one of several kinds, and tells how
        reason = "it has rows and other files" if guesses else first_line(error)
        raise ValueError(f"{source} cannot be read as a dataset: {reason}{note}") from None


@dataclass(frozen=True, eq=False)
class LineIndex:
    """Indexed lines of text files; a row of `table` (n, 2 + k) has the number of the file, the byte offset of the line,
    and the k numbers that `measure` gave."""

    unit = "byte"  # of places

    files: tuple[Path, ...]
    table: np.ndarray

    @classmethod
    def of(
        cls,
        source: str,
        field: str,
        measure: Callable[[str], tuple[int, ...] | None],
        column: str | None = None,
        whole: bool = False,
    ) -> "LineIndex":
        """Indexes a dataset, a file or all files of a pattern; with `whole`, each file, of which a folder may be given,
        as one line. Raises ValueError if there is none or a line is bad."""
        if Path(source).is_dir() and not text_files(source, whole=True):
            raise ValueError(f"{field} must have files in it, got the folder {source!r}, where there are none to read")
        records = None if whole else open_dataset(source)
        files = text_files(source, whole) if records is None else (Path(source),)
        if not files:
            raise ValueError(f"{field} must be a file, a folder or a pattern of files, but there is none at {source!r}")
        if (whole or column) and records is None and (rows := rows_among(files)):
            remedy = "--text '{body}', a template over their fields, makes documents of rows"
            alike = "those of train, val and test alike"
            raise ValueError(f"{field} must be text, got rows in {str(rows)!r}; {remedy}, {alike}")
        numbers, width = array("q"), 2
        _tell(source, sum(file.stat().st_size for file in files) if records is None else records.data.nbytes)
        lines = _whole(files) if whole else _lines_of(files) if records is None else _rows_of(records, column)
        for file, place, number, line in lines:
            try:
                measured = measure(line())
            except ValueError as error:
                where = f"{files[file]}" if whole else f"{files[file]}, line {number}"
                note = _remedy(source, files, file) if whole else "" if column else _note_of_kinds(source)
                raise ValueError(f"{where}: {sentence(error)}{note}") from None
            if measured is not None:
                numbers.extend((file, place, *measured))
                width = 2 + len(measured)
        if not numbers:
            raise ValueError(f"{field} must have lines with text, found none in {source!r}")
        table = np.frombuffer(numbers, np.int64).reshape(-1, width)
        return cls(files, table) if records is None else DatasetIndex(files, table, records, column)

    @cached_property
    def ends(self) -> np.ndarray:
        """The end of each line, in tokens of the whole text, (n,)."""
        return np.cumsum(self.table[:, 2])

    def read(self, line: int, parse: Callable[[str], Parsed]) -> Parsed:
        """What `parse` makes of a line. Raises ValueError or OSError, which name the file: it may have changed."""
        file, place = self.table[line, :2]
        try:
            return parse(self._line(line))
        except ValueError as error:
            raise ValueError(f"{self.files[file]}, from {self.unit} {place} on: {sentence(error)}") from None

    def _line(self, line: int) -> str:
        file, place = self.table[line, :2]
        with naming_file(self.files[file]), self.files[file].open("rb") as lines:
            lines.seek(place)
            text = lines.readline()
        if not text:
            raise ValueError("must be as long as when it was indexed, but ends before")
        return decode_text(text)


@dataclass(frozen=True, eq=False)
class DatasetIndex(LineIndex):
    """Rows of a dataset, as lines of JSON or the text of one column."""

    unit = "row"

    dataset: Any
    column: str | None

    def _line(self, line: int) -> str:
        return _record_text(self.dataset[int(self.table[line, 1])], self.column)


def _tell(source: str, size: int) -> None:
    """Says what is read, if it takes a while."""
    if size >= LONG:
        from lightning.pytorch.utilities import rank_zero_info  # slow to import

        rank_zero_info(f"reading {source}: {size / 1e6:,.0f} MB")


Place = tuple[int, int, int, Callable[[], str]]  # number of its file, place in it, number from 1, the line


def _remedy(source: str, files: Sequence[Path], bad: int) -> str:
    """What to give in place of a folder with a bad file."""
    if not Path(source).is_dir():
        return ""
    others = Counter(path.suffix for path in files if path.suffix not in ("", files[bad].suffix))
    suffix = others.most_common(1)[0][0] if others else ".txt"
    return f"; in place of the folder, '{source.rstrip('/')}/**/*{suffix}' leaves it out"


def _note_of_kinds(source: str) -> str:
    """What to say of a folder or a pattern whose files are of several kinds, if it cannot be read as rows."""
    files = text_files(source, whole=True)
    rows = [path for path in files if path.suffix in ROWS]
    others = Counter(path.suffix for path in files if path.suffix and path.suffix not in ROWS)
    if not rows or not others:
        return ""
    texts = f"'{Path(source) if Path(source).is_dir() else rows[0].parent}/**/*{others.most_common(1)[0][0]}'"
    return f"; all of it is read as rows, since it has {rows[0]}: {texts} has texts alone"


def _lines_of(files: Sequence[Path]) -> Iterator[Place]:
    for file, path in enumerate(files):
        with naming_file(path), path.open("rb") as lines:
            place = 0
            for number, line in enumerate(lines, 1):
                yield file, place, number, partial(decode_text, line)
                place += len(line)


def _whole(files: Sequence[Path]) -> Iterator[Place]:
    for file, path in enumerate(files):
        with naming_file(path):
            text = path.read_bytes()
        yield file, 0, 1, partial(decode_text, text)


def _rows_of(records: Any, column: str | None) -> Iterator[Place]:
    for row, record in enumerate(records):
        yield 0, row, row + 1, partial(_record_text, record, column)


def _record_text(record: dict[str, Any], column: str | None) -> str:
    if column is None:
        return json.dumps(record, ensure_ascii=False, default=str)
    if not isinstance(text := record.get(column), str):
        raise ValueError(f"must have text in the column {column!r}, got {', '.join(record)}")
    return text if text.endswith("\n") else text + "\n"
