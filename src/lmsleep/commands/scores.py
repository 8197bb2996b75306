"""The table of scores that `validate` and `test` print."""

import re
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from torch import Tensor

WHOLE = ("rows", "count")  # numbers of rows and of answers


def print_scores(stage: str, metrics: Mapping[str, Tensor]) -> None:
    """Prints what a stage, such as `test`, has logged: a line for each slice, then whatever else there is."""
    of_slices, others = by_slice(stage, metrics)
    names = list(dict.fromkeys(name for scores in of_slices.values() for name in scores))
    table = Table(stage, *names)
    for level, scores in of_slices.items():
        table.add_row(level, *(written(name, scores.get(name)) for name in names))
    console = Console()
    console.print(table)
    for name, value in others.items():
        console.print(f"{name} {value:.4g}", markup=False, highlight=False)


def by_slice(stage: str, metrics: Mapping[str, Tensor | float]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """{slice: {name: score}} with all slices together last, and the metrics that are of no slice."""
    of_slices, everything, others = {}, {}, {}
    for name, value in metrics.items():
        if match := re.fullmatch(rf"{stage}/(\w+)(?:-(\d+))?", name):
            scores = of_slices.setdefault(int(match[2]), {}) if match[2] else everything
            scores[match[1]] = float(value)
        else:
            others[name] = float(value)
    return {str(level): of_slices[level] for level in sorted(of_slices)} | {"all": everything}, others


def written(name: str, value: float | None) -> str:
    """A score with four digits, a number of rows or answers whole; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if name in WHOLE else f"{value:.4g}"
