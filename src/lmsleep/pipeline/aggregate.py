r"""Stage `aggregate`: learning curves and test scores of a figure in one tidy CSV.

python -m lmsleep.pipeline.aggregate --figure fig2b --runs runs/mini/fig2b --scores runs/mini/fig2b.csv \
    --out results/mini/fig2b.csv
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lmsleep.pipeline.table import COLUMNS, curve

ORDER = ["model", "n_passes", "seed", "metric", "slice", "tokens"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    curves = [curve(args.figure, run) for run in sorted(args.runs.iterdir()) if run.is_dir()]
    table = pd.concat([*curves, pd.read_csv(args.scores)[COLUMNS]])
    table["slice"] = table["slice"].astype(str)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table.sort_values(ORDER).to_csv(args.out, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
