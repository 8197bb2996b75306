r"""Draws a figure from runs as far as they are, by their validations: those of `lmsleep slices --runs`, say.

python -m lmsleep.pipeline.curves fig2b --runs runs/t32 --data data/paper/fig2b --out results/paper/fig2b

Writes <out>.csv (every validation), .png, .svg, .json (accuracy and paired differences at the last tokens that all runs
were validated at, or at those of --at, as far as runs reached them) and .meta.json. With --table in place of --runs it
draws such a CSV anew, and leaves it and .meta.json as they are. The pipeline's own stages do the same for finished
runs, by test rows.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lmsleep.errors import one_sentence
from lmsleep.pipeline import style
from lmsleep.pipeline.aggregate import ORDER
from lmsleep.pipeline.cells import CONFIG, CURVE
from lmsleep.pipeline.figures import DRAW, Drawing
from lmsleep.pipeline.slices import SUMMARY
from lmsleep.pipeline.table import curve

FIGURES = ("fig2a", "fig2b", "fig3", "fig4a", "fig4b", "fig5")
RUN = ["model", "n_passes", "seed", "slice"]  # what tells the runs of a figure apart


def main(argv: Sequence[str] | None = None) -> None:
    """Raises SystemExit with one sentence for a bad argument; then nothing is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=FIGURES)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--runs", type=Path, nargs="+", help="folders of run folders")
    source.add_argument("--table", type=Path, help="CSV that this command wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder with baselines.json, or of such folders")
    parser.add_argument("--at", type=int, nargs="+", help="tokens at which runs are compared")
    parser.add_argument("--scale", default="paper", help="what the axis says (default: paper)")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    args = parser.parse_args(argv)
    with one_sentence():
        if args.out.suffix:
            raise ValueError(f"out must be a name without suffix, got {str(args.out)!r}")
        runs = find_runs(args.runs) if args.runs else []
        table = validations(args.figure, runs) if runs else pd.read_csv(args.table, dtype={"slice": str})
        figure, numbers = draw(args.figure, table, args.at or [last_common_tokens(table)], args.data, args.scale)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    style.save(figure, args.out)
    args.out.with_suffix(".json").write_text(json.dumps(numbers, indent=2) + "\n")
    if runs:
        table.to_csv(args.out.with_suffix(".csv"), index=False, float_format="%.6g")
        args.out.with_suffix(".meta.json").write_text(json.dumps(provenance(args.runs, len(runs)), indent=2) + "\n")


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders that were validated at least once.

    Raises:
        ValueError: if a folder is none, or holds no such run.
    """
    found: list[Path] = []
    for folder in dict.fromkeys(folders):
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        runs = [run for run in inside if (run / CURVE).exists() and (run / CONFIG).exists()]
        if not runs:
            raise ValueError(f"runs must be folders of run folders with {CONFIG} and {CURVE}, got {str(folder)!r}")
        found += runs
    return found


def validations(figure: str, runs: Sequence[Path]) -> pd.DataFrame:
    """The curves of all runs in one tidy table.

    Raises:
        ValueError: if two runs differ in none of RUN.
    """
    curves = {run: curve(figure, run) for run in runs}
    first: dict[tuple[Any, ...], Path] = {}
    for run, part in curves.items():
        for key in part.loc[part["slice"] != "all", RUN].drop_duplicates().itertuples(index=False, name=None):
            other = first.setdefault(key, run)
            if other != run:
                raise ValueError(f"runs must differ in {', '.join(RUN)}, got {str(other)!r} and {str(run)!r}")
    table = pd.concat(curves.values())
    table["slice"] = table["slice"].astype(str)
    return table.sort_values(ORDER)


def last_common_tokens(table: pd.DataFrame) -> int:
    """The last number of tokens at which every run was validated.

    Raises:
        ValueError: if there is none.
    """
    exact = table[(table.metric == "val_exact") & (table["slice"] != "all")]
    common = set.intersection(*(set(group.tokens) for _, group in exact.groupby(RUN)))
    if not common:
        raise ValueError("runs must have a validation at the same tokens, got none; name some with --at")
    return int(max(common))


def draw(name: str, table: pd.DataFrame, at: Sequence[int], data: Path, scale: str) -> Drawing:
    """The figure, and its numbers at each of the tokens `at`.

    Raises:
        ValueError: if no run was validated at one of them, or `data` is not what `make_data` writes for this figure.
    """
    try:
        drawings = [DRAW[name](with_tests(table, tokens), data, scale) for tokens in at]
    except KeyError as error:
        raise ValueError(f"data must hold the baseline {error} for {name}, got {str(data)!r}") from None
    except FileNotFoundError as error:
        wanted = "what `python -m lmsleep.pipeline.make_data` writes"
        raise ValueError(f"data must hold {wanted}, got no {error.filename}") from None
    numbers: dict[str, list[dict[str, Any]]] = {}
    for tokens, (_, found) in zip(at, drawings, strict=True):
        for key, records in found.items():
            rows = [{"tokens": tokens, **record} for record in records]
            numbers.setdefault(key.replace("test_", "val_"), []).extend(rows)
    return drawings[0][0], numbers


def with_tests(table: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """What figures draw of the table, with the validations at `tokens` as tests.

    Raises:
        ValueError: if no run was validated there.
    """
    tested = table[table.tokens == tokens]
    if tested.empty:
        there = ", ".join(f"{n:,}" for n in sorted(table.tokens.unique())[-5:])
        raise ValueError(f"at must be tokens at which a run was validated (the last are {there}), got {tokens:,}")
    return pd.concat([shared(table), tested.assign(metric=tested.metric.str.replace("val_", "test_"))])


def shared(table: pd.DataFrame) -> pd.DataFrame:
    """The validations that all seeds of a curve have: a mean over changing seeds would jump where one ends."""
    curves = ["model", "n_passes", "slice"]
    seeds = table.groupby(curves).seed.transform("nunique")
    return table[table.groupby([*curves, "metric", "tokens"]).seed.transform("nunique") == seeds]


def provenance(folders: Sequence[Path], runs: int) -> dict[str, Any]:
    """Number of runs, and what the summaries of `lmsleep slices` beside them say they were made with."""
    summaries = [json.loads((f / SUMMARY).read_text()) for f in folders if (f / SUMMARY).exists()]
    slices = [entry for summary in summaries for entry in summary["slices"]]
    names = {"hardware": "device", "torch": "torch", "commit": "commit"}
    return {"runs": runs} | {name: sorted({s[key] for s in slices if s.get(key)}) for name, key in names.items()}


if __name__ == "__main__":
    main()
