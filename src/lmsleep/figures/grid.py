"""The grids of params.yaml, and the names of their cells."""

from itertools import product
from pathlib import Path
from typing import Any

import yaml

PARAMS = Path("params.yaml")
# Of the axes of a grid, in the names of its cells.
LETTERS = {"steps": "t", "n_passes": "n", "max_steps": "k", "arms": "", "seeds": "s"}


def grids() -> dict[str, dict[str, list[Any]]]:
    """The grid of every figure in params.yaml: its axes (`n_passes`, `steps`, `runs` or `arms`, and `seeds`) and their
    values, where a value of `runs` is several settings that go together."""
    return yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["grids"]


def grid(figure: str) -> dict[str, list[Any]]:
    """The grid of one figure. Raises ValueError if params.yaml has none of that name."""
    known = grids()
    if figure not in known:
        raise ValueError(f"figure must have a grid in {PARAMS} ({', '.join(known)}), got {figure!r}")
    return known[figure]


def cells(figure: str) -> list[str]:
    """The names of the cells of a figure's grid, sorted: n1-s0, n1-s1, n2-s0, ... or n1-k1600-s100, ... Raises
    ValueError if params.yaml has no grid of that name."""
    axes = [[_named(axis, value) for value in values] for axis, values in grid(figure).items()]
    return sorted("-".join(point) for point in product(*axes))


def _named(axis: str, value: Any) -> str:
    settings = value if isinstance(value, dict) else {axis: value}
    return "-".join(f"{letter}{settings[name]}" for name, letter in LETTERS.items() if name in settings)
