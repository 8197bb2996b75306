"""The settings of runs: experiment files, the grids of params.yaml, the arms of configs/arms.yaml."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf

from lmsleep.checks import require, typed

PARAMS, ARMS_FILE = Path("params.yaml"), Path("configs/arms.yaml")
ARMS = "arms"  # the figure of arms in params.yaml; `arms_depo` is that on Depo
# The letters of the axes of a grid in the names of its cells.
LETTERS = {"steps": "t", "n_passes": "n", "max_steps": "k", "arms": "", "seeds": "s"}


def merge_configs(paths: Sequence[Path | str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The merged configuration; later files and `key.sub=value` overrides win, as on the command line."""
    merged = OmegaConf.merge(*(OmegaConf.load(path) for path in paths), OmegaConf.from_dotlist(list(overrides)))
    return OmegaConf.to_container(merged, resolve=True)  # pyright: ignore[reportReturnType]


def grids() -> dict[str, dict[str, list[Any]]]:
    """The grid of every figure in params.yaml: its axes (`n_passes`, `steps`, `runs` or `arms`, and `seeds`) and their
    values; a value of `runs` is a combination of settings."""
    return yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["grids"]


def grid(figure: str) -> dict[str, list[Any]]:
    """The grid of one figure. Raises ValueError if params.yaml has none of that name."""
    known = grids()
    require(figure in known, f"figure must have a grid in {PARAMS} ({', '.join(known)})", figure)
    return known[figure]


def cells(figure: str) -> list[str]:
    """The names of the cells of a figure's grid, sorted: n1-s0, n1-s1, n2-s0, ... or n1-k1600-s100, ... Raises
    ValueError if it has none, or one twice, or an axis that no name has room for."""
    axes = [[_cell_part(figure, axis, value) for value in values] for axis, values in grid(figure).items()]
    names = sorted("-".join(point) for point in product(*axes))
    rule = f"the grid of {figure} in {PARAMS} must have one or more cells, each of them once"
    require(names and len(set(names)) == len(names), rule, grid(figure))
    return names


def _cell_part(figure: str, axis: str, value: Any) -> str:
    settings = value if isinstance(value, dict) else {axis: value}
    rule = f"the grid of {figure} in {PARAMS} must be over {', '.join(LETTERS)} or runs of these; another setting makes"
    require(settings.keys() <= LETTERS.keys(), f"{rule} an arm in {ARMS_FILE}", ", ".join(settings))
    return "-".join(f"{letter}{settings[name]}" for name, letter in LETTERS.items() if name in settings)


@dataclass(frozen=True)
class Arm:
    """An entry of configs/arms.yaml, which documents the fields."""

    title: str
    arguments: tuple[str, ...]
    group: Literal["controls", "ablations"] | None = None
    question: str | None = None
    against: str = "n4"
    arms_depo: tuple[str, ...] | None = None


def arms() -> dict[str, Arm]:
    """All arms by name. Raises ValueError if an entry of the file is invalid, or its reference arm does not exist."""
    entries = yaml.safe_load(ARMS_FILE.read_text(encoding="utf-8"))
    found = {name: typed(Arm, entry, f"{name} in {ARMS_FILE}") for name, entry in entries.items()}
    for name, arm in found.items():
        rule = f"against of {name} in {ARMS_FILE} must be one of {', '.join(found)}"
        require(arm.against in found, rule, arm.against)
    return found


def has_arms(figure: str) -> bool:
    """Whether the cells of a figure are arms."""
    return figure.partition("_")[0] == ARMS


def arm_of(run: Path) -> str:
    """The arm of a run folder, such as deep8 of deep8-s100."""
    return run.name.rpartition("-s")[0]
