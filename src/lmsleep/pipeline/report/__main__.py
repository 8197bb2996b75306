"""Last stage: the report of a scale.

python -m lmsleep.pipeline.report --scale mini --results results/mini --out results/mini/report.html

The same results give the same bytes. A verdict edited in results/paper/verdicts.yaml shows after `dvc repro -f report`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lmsleep.pipeline.report.page import page
from lmsleep.pipeline.report.results import load, paper_values


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("smoke", "mini", "paper"), required=True)
    parser.add_argument("--results", type=Path, required=True, help="folder with <figure>.png and <figure>.json")
    parser.add_argument("--paper", type=Path, default=Path("docs/paper_values.csv"), help="what the paper prints")
    parser.add_argument("--out", type=Path, required=True, help="HTML file")
    args = parser.parse_args(argv)
    text = page(args.scale, load(args.results, args.scale), paper_values(args.paper))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
