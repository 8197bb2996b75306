r"""Stage `table`: learning curves and test scores of a figure in one tidy CSV, and the provenance of its runs.

python -m lmsleep.figures.table --figure fig2b --runs runs/mini/fig2b --scores runs/mini/scores/fig2b.csv \
    --out results/mini/fig2b.csv

Beside <out> it writes <figure>.meta.json, which changes only when a run is trained again:
{"runs": 9, "seconds": 312, "hardware": ["x86_64 CPU, 2 cores"], "torch": ["2.13.0"], "commit": ["0123abc..."]}
where `seconds` is the time of all runs together, with validations and compilation, and of all parts of a resumed run.
Without --scores it takes all runs in --runs, finished or not, and ignores the grid of params.yaml.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lmsleep import tidy
from lmsleep.atomic import save_csv, save_json
from lmsleep.checks import naming_file, read_object, require, typed
from lmsleep.figures.settings import arm_of, cells, has_arms, merge_configs
from lmsleep.tidy import ANY_NUMBER, COLUMNS, INTEGER

ORDER = ["model", "n_passes", "seed", "metric", "slice", "tokens"]
# Counts of answers and rows that a table with test scores does without: test_count and test_rows say the same.
SIZES = r"(val|cut|settle_[^_]+|test_n\d+)_(\w+_)?(count|rows)"
MADE_WITH = {"seconds": float, "hardware": str, "torch": str, "commit": str}  # what a run.json may say


def main(figure: str, runs: Path, out: Path, scores: Path | None = None) -> None:
    """Writes the table of a figure.

    Args:
        figure: its name.
        runs: folder of run folders.
        out: the CSV.
        scores: what stage `evaluate` wrote.
    """
    folders = run_folders(figure, runs) if scores else validated_runs(runs)
    tested = [read_scores(figure, scores)] if scores else []
    table = pd.concat([*(curve(figure, run) for run in folders), *tested])
    table["slice"] = table["slice"].astype(str)
    if table[table["slice"] != "all"].duplicated(ORDER).any():
        raise ValueError(f"runs in {str(runs)!r} must differ in model, N, slice or seed, got two that do not")
    table = table[~table.metric.str.fullmatch(SIZES)] if scores else table
    meta = provenance(folders)
    save_csv(out, table.sort_values(ORDER), float_format="%.6g")
    save_json(out.with_suffix(".meta.json"), meta)


def read_scores(figure: str, path: Path) -> pd.DataFrame:
    """The test scores of a figure. Raises ValueError, with the path, if they are of another one."""
    scores = tidy.read(path)
    others = ", ".join(sorted({*scores.figure} - {figure}))
    require(not others, f"{path}: figure must be {figure!r} in every row", others)
    return scores


def run_folders(figure: str, folder: Path) -> list[Path]:
    """The run folders of a figure's grid. Raises ValueError if one does not exist."""
    runs = [folder / name for name in cells(figure)]
    missing = [run.name for run in runs if not run.is_dir()]
    if missing:
        names = ", ".join(missing)
        raise ValueError(f"runs must be a folder with all cells of {figure}, got {str(folder)!r} without {names}")
    return runs


def validated_runs(folder: Path) -> list[Path]:
    """The run folders that were validated at least once. Raises ValueError if there are none."""
    runs = sorted(path.parent for path in folder.glob("*/curve.csv"))
    require(runs, "runs must be a folder of run folders with curve.csv", str(folder))
    return runs


def run_columns(figure: str, run: Path) -> dict[str, Any]:
    """figure, model (its pattern, or the name of its pretrained weights; with the steps, if the cell's name has them;
    or the arm), n_passes, seed and tokens of a run, from its config.yaml and run.json; for an unfinished run, tokens
    are those of the last validation in curve.csv."""
    with naming_file(run / "config.yaml"):
        config = merge_configs([run / "config.yaml"])
        model = config["model"]["model"]
        name = model["pattern"] if model else Path(config["model"]["init_from"]).name
        seed, n_passes = config["data"]["seed"], config["sleep"]["n_passes"]
    end = run / "run.json"
    tokens = read_object(end).get("tokens") if end.exists() else None
    tokens = tokens or int(validations(run)["tokens"].iloc[-1])
    if steps := re.search(r"-(k\d+)-", run.name):
        name = f"{name}-{steps[1]}"
    name = arm_of(run) if has_arms(figure) else name
    return {"figure": figure, "model": name, "n_passes": n_passes, "seed": seed, "tokens": tokens}


def validations(run: Path) -> pd.DataFrame:
    """curve.csv of a run: step, tokens and scores. Raises ValueError if it is invalid or empty."""
    path = run / "curve.csv"
    with naming_file(path):
        counts = ["step", "tokens"]
        frame = tidy.read_texts(path, counts)
        kinds = {name: INTEGER if name in counts else ANY_NUMBER for name in frame}
        return frame.apply(lambda column: tidy.parsed(column, kinds[column.name])).reset_index(drop=True)


def curve(figure: str, run: Path) -> pd.DataFrame:
    """The validation curve of a run in tidy form, metrics prefixed `val_`; without scores that are not finite."""
    wide = validations(run).drop(columns="step").melt(id_vars="tokens", var_name="name")
    names = wide.pop("name").str.partition("-")
    wide["metric"], wide["slice"] = "val_" + names[0], names[2].where(names[2] != "", "all")
    columns = {k: v for k, v in run_columns(figure, run).items() if k != "tokens"}
    return wide[np.isfinite(wide.value)].assign(**columns)[COLUMNS]


def provenance(runs: Sequence[Path]) -> dict[str, Any]:
    """Number of runs, the sum of their seconds, and the hardware, torch versions and commits in their run.json. Raises
    ValueError, with the path, if one of these is of another kind."""
    records = [made_with(run / "run.json") for run in runs if (run / "run.json").exists()]
    seconds = round(sum(record["seconds"] or 0 for record in records))
    named = {name: sorted({r[name] for r in records} - {None, ""}) for name in ("hardware", "torch", "commit")}
    return {"runs": len(runs), "seconds": seconds} | named


def made_with(path: Path) -> dict[str, Any]:
    """What a run.json says of how its run was made, None where it does not."""
    with naming_file(path):
        said = read_object(path)
        return {name: typed(kind | None, said.get(name), name) for name, kind in MADE_WITH.items()}


if __name__ == "__main__":
    from lmsleep.cli import run

    run(main)
