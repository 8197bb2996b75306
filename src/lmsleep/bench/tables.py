"""Measurements as tidy tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lmsleep.checks import naming_file, require

# Of every results file.
COLUMNS = ["figure", "model", "n_passes", "seed", "slice", "tokens", "metric", "value"]
PARALLEL, WINDOWED = "parallel sliding window", "reading by windows"  # the models of figure 6
# model, n_passes, slice, tokens, metric, value
Measurement = tuple[str, int, int, int, str, float]


def check_distinct(**values: Sequence[int]) -> None:
    """Raises ValueError if one of the lists is empty or has a value twice."""
    for name, numbers in values.items():
        if not numbers:
            raise ValueError(f"{name} must be one or more, got none")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{name} must differ, got {', '.join(map(str, numbers))}")


def tidy(figure: str, seed: int, measurements: Sequence[Measurement]) -> pd.DataFrame:
    """A table with the columns of every results file."""
    frame = pd.DataFrame(measurements, columns=["model", "n_passes", "slice", "tokens", "metric", "value"])
    return frame.assign(figure=figure, seed=seed)[COLUMNS]


def check_out(path: Path) -> None:
    """Raises ValueError if no file can be written there."""
    usable = path.parent.is_dir() and not path.is_dir()
    require(usable, "out must be a file in a folder that exists", str(path))


def read(path: Path) -> pd.DataFrame:
    """A table of results, slices as text. Raises ValueError, with the path, if it is none."""
    with naming_file(path):
        kinds = {"slice": str, "n_passes": int, "seed": int, "tokens": int, "value": float}
        frame = pd.read_csv(path, dtype=kinds)  # pyright: ignore[reportArgumentType]
        require(set(COLUMNS) <= set(frame), f"columns must be {', '.join(COLUMNS)}", ", ".join(map(str, frame)))
        require(len(frame), "rows must be one or more", 0)
        return frame[COLUMNS]


def pivot_text(frame: pd.DataFrame, **names: str) -> str:
    """The table as text with metrics as columns; `names` renames columns."""
    keys = ["model", "n_passes", "slice"]
    table = frame.pivot(index=keys, columns="metric", values="value").reset_index()
    return table.rename(columns=names).to_string(index=False, float_format=_number)


def _number(value: Any) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
