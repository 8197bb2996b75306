"""The grids of params.yaml, and the names of their cells."""

from itertools import product
from pathlib import Path

import yaml

PARAMS = Path("params.yaml")
LETTERS = {"steps": "t", "n_passes": "n", "seeds": "s"}  # of the axes of a grid, in the names of its cells


def grids() -> dict[str, dict[str, list[int]]]:
    """The grid of every figure in params.yaml: its axes (`n_passes` or `steps`, and `seeds`) and their values."""
    return yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["grids"]


def grid(figure: str) -> dict[str, list[int]]:
    """The grid of one figure.

    Raises:
        ValueError: if params.yaml has none of that name.
    """
    known = grids()
    if figure not in known:
        raise ValueError(f"figure must have a grid in {PARAMS} ({', '.join(known)}), got {figure!r}")
    return known[figure]


def cells(figure: str) -> list[str]:
    """The names of the cells of a figure's grid, sorted: n1-s0, n1-s1, n2-s0, ...

    Raises:
        ValueError: if params.yaml has no grid of that name.
    """
    axes = [[f"{LETTERS[axis]}{value}" for value in values] for axis, values in grid(figure).items()]
    return sorted("-".join(point) for point in product(*axes))
