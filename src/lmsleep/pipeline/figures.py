"""Stage of each figure: draws it from its table.

python -m lmsleep.pipeline.figures fig2b --scale mini --table results/mini/fig2b.csv --data data/mini/fig2b --out results/mini/fig2b

Writes <out>.png, <out>.svg and <out>.json with the numbers that texts quote.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lmsleep.pipeline import style
from lmsleep.pipeline.stats import over_seeds, paired_differences

Drawing = tuple[Figure, dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=sorted(DRAW))
    parser.add_argument("--scale", required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    args = parser.parse_args(argv)
    table = pd.read_csv(args.table, dtype={"slice": str})
    figure, numbers = DRAW[args.figure](table, args.data, args.scale)
    style.save(figure, args.out)
    args.out.with_suffix(".json").write_text(json.dumps(numbers, indent=2) + "\n")


def fig2a(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """The plain hybrid (N = 1) on Rule 110: exact accuracy against tokens, one curve for each number of steps t."""
    fig, (ax,) = style.subplots()
    exact = table[(table.metric == "val_exact") & (table.slice != "all")].assign(t=lambda f: f.slice.astype(int))
    steps = sorted(exact.t.unique())
    for t, color in zip(steps, _shades(len(steps)), strict=True):
        style.band(ax, exact[exact.t == t], str(t), color)
    majority = [baseline(data / f"t{t}")[str(t)] for t in steps]
    style.reference(ax, float(np.mean(majority)), "majority", ":")
    _label(ax, scale, exact)
    style.legend(fig, ax, "Rule 110 steps t, plain hybrid (N = 1)")
    finals = _final(table).assign(t=lambda f: f.slice.astype(int))
    return fig, {"test_exact": {str(t): over_seeds(g.value).as_dict() for t, g in finals.groupby("t")}}


def fig2b(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Sleep on Rule 110: exact accuracy against tokens, one curve for each N."""
    fig, (ax,) = style.subplots()
    exact = table[(table.metric == "val_exact") & (table.slice == "all")]
    draw_passes(ax, exact)
    majority = baseline(data)
    style.reference(ax, float(np.mean(list(majority.values()))), "majority", ":")
    chance = json.loads((data / "baselines.json").read_text())["chance"]
    style.reference(ax, float(np.mean(list(chance.values()))), "chance")
    _label(ax, scale, exact)
    style.legend(fig, ax, "passes N over a full window")
    return fig, comparison(_final(table))


def draw_passes(ax: Any, frame: pd.DataFrame) -> None:
    """One band for each N."""
    passes = sorted(frame.n_passes.unique())
    for n, color in style.colors(passes).items():
        style.band(ax, frame[frame.n_passes == n], f"N = {n}", color)


def comparison(finals: pd.DataFrame, within: list[str] | None = None) -> dict[str, Any]:
    """Test scores for each N over seeds, and their paired differences from the smallest N."""
    keys = [*(within or []), "n_passes"]
    means = [dict(zip(keys, k, strict=True)) | over_seeds(g.value).as_dict() for k, g in finals.groupby(keys)]
    differences = paired_differences(finals, "n_passes", int(finals.n_passes.min()), within)
    return {"test_exact": _plain(means), "difference": _plain(differences.to_dict("records"))}


def baseline(data: Path) -> dict[str, float]:
    """The majority baseline of each slice of a data folder."""
    return json.loads((data / "baselines.json").read_text())["majority"]


def _final(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table.metric == "test_exact") & (table.slice != "all")]


def _label(ax: Any, scale: str, frame: pd.DataFrame) -> None:
    seeds = frame.seed.nunique()
    ax.set_xlabel(f"training tokens ({scale} scale, {seeds} seed{'s' if seeds > 1 else ''}; band: smallest to largest)")
    ax.set_ylabel("all answers of a row right")
    style.token_axis(ax)
    style.percent_axis(ax)


def _shades(n: int) -> list[str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](x)) for x in np.linspace(0.0, 0.88, n)]


def _plain(records: list[dict[Any, Any]]) -> list[dict[str, Any]]:
    """Numbers that JSON knows; not-a-number becomes null."""
    return [
        {str(k): None if v != v else (v.item() if hasattr(v, "item") else v) for k, v in r.items()} for r in records
    ]


DRAW: dict[str, Callable[[pd.DataFrame, Path, str], Drawing]] = {"fig2a": fig2a, "fig2b": fig2b}


if __name__ == "__main__":
    main()
