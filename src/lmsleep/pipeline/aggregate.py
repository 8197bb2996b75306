r"""Stage `aggregate`: learning curves and test scores of a figure in one tidy CSV, and what its runs were made with.

python -m lmsleep.pipeline.aggregate --figure fig2b --runs runs/mini/fig2b --scores runs/mini/fig2b.csv \
    --out results/mini/fig2b.csv

Beside <out> it writes <figure>.meta.json, which changes only when a run was trained anew:
{"runs": 9, "hardware": ["x86_64 CPU, 2 cores"], "torch": ["2.13.0"], "commit": ["0123abc..."]}
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lmsleep.atomic import atomic_write
from lmsleep.errors import one_sentence
from lmsleep.pipeline.table import COLUMNS, curve, run_folders

ORDER = ["model", "n_passes", "seed", "metric", "slice", "tokens"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    with one_sentence():
        runs = run_folders(args.runs)
        curves = [curve(args.figure, run) for run in runs]
        table = pd.concat([*curves, pd.read_csv(args.scores)[COLUMNS]])
        table["slice"] = table["slice"].astype(str)
        made_with = json.dumps(provenance(runs), indent=2) + "\n"
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(args.out) as temporary:
            table.sort_values(ORDER).to_csv(temporary, index=False, float_format="%.6g")
        with atomic_write(args.out.with_suffix(".meta.json")) as temporary:
            temporary.write_text(made_with)


def provenance(runs: Sequence[Path]) -> dict[str, Any]:
    """Number of runs, and every hardware class, torch version and commit that their run.json name."""
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    names = ("hardware", "torch", "commit")
    return {"runs": len(runs)} | {name: sorted({r[name] for r in records if r.get(name)}) for name in names}


if __name__ == "__main__":
    main()
