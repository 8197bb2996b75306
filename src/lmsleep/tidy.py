"""The format of all results: tidy tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lmsleep.checks import naming_file, require

# Of every results file.
COLUMNS = ["figure", "model", "n_passes", "seed", "slice", "tokens", "metric", "value"]
PARALLEL, WINDOWED = "parallel sliding window", "reading by windows"  # the models of figure 6
# What a value of a table is, in words -> how it is written; numbers are written as pandas reads them.
TEXT, INTEGER, ANY_INTEGER, LEVEL = "a text", "an integer", "an integer or nothing", "an integer or all"
NUMBER, ANY_NUMBER = "a finite number", "a number or nothing"
_WRITTEN = {TEXT: r".*\S.*", INTEGER: r"-?\d{1,18}", ANY_INTEGER: r"(-?\d{1,18})?", LEVEL: r"-?\d{1,18}|all"}
_KINDS = dict.fromkeys(COLUMNS, TEXT) | dict.fromkeys(("n_passes", "seed", "tokens"), INTEGER)
_KINDS |= {"slice": LEVEL, "value": NUMBER}
# model, n_passes, slice, tokens, metric, value
Measurement = tuple[str, int, int, int, str, float]


def measured(figure: str, seed: int, measurements: Sequence[Measurement]) -> pd.DataFrame:
    """A table of measurements."""
    frame = pd.DataFrame(measurements, columns=["model", "n_passes", "slice", "tokens", "metric", "value"])
    return frame.assign(figure=figure, seed=seed)[COLUMNS]


def read(path: Path) -> pd.DataFrame:
    """A table of results, slices as text. Raises ValueError, with the path, if it is none; with line and column, if a
    value is missing or of another kind."""
    with naming_file(path):
        frame = read_texts(path, COLUMNS)
        return pd.DataFrame({name: parsed(frame[name], kind) for name, kind in _KINDS.items()}).reset_index(drop=True)


def check_once(frame: pd.DataFrame) -> None:
    """Raises ValueError if two rows of a table of results differ in nothing but their value."""
    keys = frame[COLUMNS[:-1]]
    for row in keys[keys.duplicated()].itertuples(index=False):
        raise ValueError(f"rows must differ in more than their value, got twice {', '.join(map(str, row))}")


def read_texts(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV as it is written, its index the number of the line in the file. Raises ValueError if it lacks one of the
    columns, or has no rows."""
    frame = pd.read_csv(path, dtype=str, na_filter=False, skip_blank_lines=False)
    require(set(columns) <= set(frame), f"columns must be {', '.join(columns)}", ", ".join(map(str, frame)))
    require(isinstance(frame.index, pd.RangeIndex), "a line must have as many values as there are columns", "more")
    frame = frame.set_axis(frame.index + 2)[(frame != "").any(axis=1).to_numpy()]  # a blank line is no row
    require(len(frame), "rows must be one or more", 0)
    return frame


def parsed(column: pd.Series, kind: str) -> pd.Series:
    """A column of `read_texts` as text or numbers. Raises ValueError, with line and column, of a value that is not of
    the kind: one of the words above."""
    numbers = column if kind in (TEXT, LEVEL) else pd.to_numeric(column, errors="coerce")
    if kind in _WRITTEN:
        sound = column.str.fullmatch(_WRITTEN[kind])
    else:
        sound = np.isfinite(numbers) if kind == NUMBER else numbers.notna() | (column == "")
    for line, got in column[~sound].items():
        raise ValueError(f"line {line}: {column.name} must be {kind}, got {got!r}")
    return numbers


def pivot_text(frame: pd.DataFrame, **names: str) -> str:
    """The table as text with metrics as columns, a dash where there is none; `names` renames columns."""
    keys = ["model", "n_passes", "slice"]
    table = frame.pivot(index=keys, columns="metric", values="value").reset_index()
    return table.rename(columns=names).to_string(index=False, float_format=_number, na_rep="–")


def _number(value: Any) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
