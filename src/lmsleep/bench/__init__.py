"""What training and reading cost."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from lmsleep.errors import one_sentence

# name -> (module with a `main(argv)`, what it measures)
BENCHES = {
    "train": ("lmsleep.bench.train", "a training step, against the same model with other gated delta rules"),
    "wake": ("lmsleep.bench.wake", "latency of a token, pause of a sleep and memory against context length and N"),
    "window": ("lmsleep.bench.window", "training throughput against window size and N (figure 6)"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one benchmark; ends with one sentence where it cannot be measured."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in BENCHES:
        with one_sentence():
            importlib.import_module(BENCHES[argv[0]][0]).main(argv[1:])
        return
    listing = "\n".join(f"  {name:8}{what}" for name, (_, what) in BENCHES.items())
    parser = argparse.ArgumentParser(
        "lmsleep bench",
        description=f"{__doc__}\n\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=BENCHES)
    parser.parse_args(argv)
