"""Stage `measure`: a benchmark's table, and where it was measured.

python -m lmsleep.pipeline.measure wake --out results/mini/latency.csv
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from lmsleep.cli import main as lmsleep
from lmsleep.pipeline.provenance import commit, hardware


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="see `lmsleep bench --help`; further options are passed on to it")
    parser.add_argument("--out", type=Path, required=True, help="CSV; <out>.meta.json says where it was measured")
    args, options = parser.parse_known_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lmsleep(["bench", args.benchmark, *options, "--out", str(args.out)])
    made_with = {"hardware": [hardware()], "torch": [torch.__version__], "commit": [code] if (code := commit()) else []}
    args.out.with_suffix(".meta.json").write_text(json.dumps({"runs": 1, **made_with}, indent=2) + "\n")


if __name__ == "__main__":
    main()
