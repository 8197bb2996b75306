"""Stage `measure`: the table of a benchmark, and its hardware.

python -m lmsleep.figures.measure results/mini/latency.csv wake --device cpu

The arguments after the table are those of `lmsleep bench`. <table>.meta.json has hardware, torch version and commit.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lmsleep.atomic import save_json
from lmsleep.cli import main as lmsleep
from lmsleep.figures.provenance import commit, hardware


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a failing benchmark ends it with its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in ([], [""]) or words[0].startswith("-"):
        sys.exit(__doc__)
    out = Path(words[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    lmsleep(["bench", *words[1:], "--out", str(out)])
    code = commit()
    made_with = {"hardware": [hardware()], "torch": [torch.__version__], "commit": [code] if code else []}
    save_json(out.with_suffix(".meta.json"), {"runs": 1, **made_with})


if __name__ == "__main__":
    main()
