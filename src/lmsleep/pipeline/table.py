"""Tidy tables: the columns every results file has, and how they are read from runs."""

from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from lmsleep.bench.tables import COLUMNS


def run_folders(folder: Path) -> list[Path]:
    """The run folders in `folder`, sorted.

    Raises:
        ValueError: if there are none.
    """
    runs = sorted(run for run in folder.iterdir() if run.is_dir()) if folder.is_dir() else []
    if not runs:
        raise ValueError(f"runs must be a folder with finished runs, got {str(folder)!r}")
    return runs


def run_columns(figure: str, run: Path) -> dict[str, Any]:
    """figure, model (its pattern, or the name of the weights it started from), n_passes, seed and tokens of a finished
    run, read from its config.yaml and curve.csv."""
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(config, dict)
    tokens = int(pd.read_csv(run / "curve.csv")["tokens"].iloc[-1])
    model = config["model"]["model"]
    name = model["pattern"] if model else Path(config["model"]["init_from"]).name
    seed, n_passes = config["data"]["seed"], config["sleep"]["n_passes"]
    return {"figure": figure, "model": name, "n_passes": n_passes, "seed": seed, "tokens": tokens}


def curve(figure: str, run: Path) -> pd.DataFrame:
    """The validation curve of a run in tidy form, metrics prefixed `val_`."""
    wide = pd.read_csv(run / "curve.csv").drop(columns="step").melt(id_vars="tokens", var_name="name")
    names = wide.pop("name").str.partition("/")
    wide["metric"], wide["slice"] = "val_" + names[0], names[2].where(names[2] != "", "all")
    columns = {k: v for k, v in run_columns(figure, run).items() if k != "tokens"}
    return wide.dropna(subset="value").assign(**columns)[COLUMNS]
