"""The cells of a grid, each a run folder with last.ckpt, config.yaml, curve.csv and log.txt, and how far each of them
is."""

import hashlib
import itertools
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from lmsleep.atomic import check_checkpoint_file
from lmsleep.pipeline.parts import NAME, STATE, read_state, write_state

CHECKPOINT, CONFIG, CURVE, LOG = "last.ckpt", "config.yaml", "curve.csv", "log.txt"
Row = dict[str, float]


@dataclass(frozen=True)
class Cell:
    """One run: its name, the arguments of its `lmsleep fit`, and its folder."""

    name: str
    args: list[str]
    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run lies."""
        return self.folder / CHECKPOINT

    def config(self) -> dict[str, Any]:
        """What LightningCLI wrote at the start of the run; empty before."""
        path = self.folder / CONFIG
        return yaml.safe_load(path.read_text()) if path.exists() else {}

    def progress(self) -> "Progress":
        """How far the run is, by its checkpoint; by its curve where a finished run has left its checkpoint behind."""
        config = self.config()
        max_steps = config["trainer"]["max_steps"] if config else None
        if self.checkpoint.exists():
            check_checkpoint_file(self.checkpoint)
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=True)
            return Progress(content["global_step"], max_steps, _curve(content))
        curve = self.folder / CURVE
        rows: list[Row] = pd.read_csv(curve).to_dict("records") if curve.exists() else []  # pyright: ignore
        by_curve = Progress(int(rows[-1]["step"]) if rows else 0, max_steps, rows)
        return by_curve if by_curve.finished else Progress(0, max_steps, [])

    def pack(self, target: Path, state: bool, optimizer: bool) -> None:
        """Copies the run into `target`, its checkpoint as safetensors and JSON.

        Args:
            state, optimizer: whether to take the checkpoint along, and the optimizer state in it.
        """
        target.mkdir(parents=True)
        copy_present((CONFIG, LOG), self.folder, target)
        rows = self.progress().rows
        if rows:
            # A killed run may have written a row that its checkpoint has not.
            pd.DataFrame(rows).to_csv(target / CURVE, index=False)
        if state and self.checkpoint.exists():
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            write_state(content if optimizer else content | {"optimizer_states": []}, target)

    def unpack(self, source: Path) -> None:
        """Makes the run folder from what `pack` wrote."""
        self.folder.mkdir(parents=True, exist_ok=True)
        copy_present((CONFIG, CURVE, LOG), source, self.folder)
        if (source / STATE).exists():
            torch.save(read_state(source), self.checkpoint)


def copy_present(names: Sequence[str], source: Path, target: Path) -> None:
    """Copies those of the files that are there."""
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


@dataclass(frozen=True)
class Progress:
    """Optimizer steps done and to do in all (None: not known yet), and the learning curve."""

    step: int
    max_steps: int | None
    rows: list[Row]

    @property
    def finished(self) -> bool:
        """All steps are done."""
        return self.max_steps is not None and 0 <= self.max_steps <= self.step

    @property
    def tokens(self) -> int | None:
        """Tokens seen; None before the first validation."""
        return round(self.step * self.rows[-1]["tokens"] / self.rows[-1]["step"]) if self.rows else None

    def at(self, step: float) -> Row:
        """The row of the curve at a step that it has."""
        return next(row for row in self.rows if row["step"] == step)


def last_common_step(progress: Sequence[Progress]) -> float | None:
    """The last step at which all of them were validated."""
    common = set.intersection(*({row["step"] for row in p.rows} for p in progress)) if progress else set()
    return max(common, default=None)


def report(cells: Sequence[Cell], progress: dict[str, Progress]) -> dict[str, Any]:
    """How far each cell is, and all of them at the same tokens: at the last step at which all were validated."""
    common = last_common_step(list(progress.values()))
    entries, compared = {}, {}
    for cell in cells:
        now = progress[cell.name]
        entry = {"args": cell.args, "step": now.step, "max_steps": now.max_steps, "tokens": now.tokens}
        entries[cell.name] = entry | {"latest": finite(now.rows[-1]) if now.rows else None}
        if common is not None:
            compared[cell.name] = finite(now.at(common))
    return {"cells": entries, "compared": compared}


def finite(row: Row) -> dict[str, float | None]:
    """Standard JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def table(summary: dict[str, Any], failed: dict[str, str]) -> str:
    """Tokens seen per cell, and exact accuracy and loss at the same tokens."""
    records, compared = [], summary["compared"]
    for name, entry in summary["cells"].items():
        seen = f"{entry['tokens']:,}" if entry["tokens"] is not None else "-"
        steps = f"{entry['step']:,}/{entry['max_steps'] or 0:,}"
        scores = {k: f"{compared[name][k]:.4f}" if compared else "-" for k in ("exact", "loss")}
        records.append({"cell": name, "step": steps, "tokens seen": seen, **scores, "": failed.get(name, "")})
    same = {f"{row['tokens']:,.0f}" for row in compared.values()}
    title = f"exact and loss of all at {' / '.join(same)} tokens" if compared else "no validation in common yet"
    return f"{pd.DataFrame(records).to_string(index=False)}\n{title}"


def grid_cells(grid: Sequence[str], fit_args: Sequence[str], runs: Path) -> list[Cell]:
    """The cells of a grid given as `label:key=value,value,...` or `label:key,key=value,...`.

    With `n:sleep.n_passes=1,2` and `s:seed_everything,data.seed=0` they are named n1-s0 and n2-s0.

    Raises:
        ValueError: if an axis is not of this form, or a value does not make a file name.
    """
    axes = []
    for axis in grid:
        label, _, rest = axis.partition(":")
        keys, _, values = rest.partition("=")
        if not (label and keys and values):
            raise ValueError(f"grid must be given as label:key=value,value,..., got {axis!r}")
        axes.append([(f"{label}{v}", [f"--{key}={v}" for key in keys.split(",")]) for v in values.split(",")])
    cells = []
    for point in itertools.product(*axes) if axes else ():
        name = "-".join(part for part, _ in point)
        if not NAME.fullmatch(name):
            raise ValueError(f"grid must have labels and values of letters, digits, '.', '_' and '-', got {name!r}")
        cells.append(Cell(name, [*fit_args, *(arg for _, args in point for arg in args)], runs / name))
    return cells


def config_digests(args: Sequence[str]) -> dict[str, str]:
    """sha256 of each configuration file among the arguments of `lmsleep fit`."""
    paths = [arg.split("=", 1)[-1] for arg in args if arg.endswith((".yaml", ".yml"))]
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise ValueError(f"config must be a file, got {missing[0]!r}")
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}


def _curve(checkpoint: dict[str, Any]) -> list[Row]:
    return next((s["rows"] for key, s in checkpoint["callbacks"].items() if key.startswith("LearningCurve")), [])
