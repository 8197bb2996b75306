"""The command line: the trainer's commands, and the project's own beside them."""

import importlib
import sys
from collections.abc import Sequence

# name -> (module with a `main(argv)` that ends with one sentence where a value is bad, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "bench": ("lmsleep.bench", "measure what training and reading cost"),
    "doctor": ("lmsleep.doctor", "say what is installed, which backends are used, and how to add what is missing"),
    "demo": ("lmsleep.runtime.demo", "watch a model read, fall asleep and answer"),
    "export": ("lmsleep.pretrained.export", "turn a Lightning checkpoint into a folder that from_pretrained reads"),
    "slices": ("lmsleep.pipeline.slices", "train the cells of a grid for some minutes at a time"),
    "plan": ("lmsleep.bench.plan", "say what a run needs before it starts: memory, tokens, operations, hours"),
}


def overview() -> str:
    """What `lmsleep --help` says."""
    trainer = {
        "fit": "train: lmsleep fit --config configs/experiment/rule110.yaml --sleep.n_passes=4",
        "validate": "score a checkpoint on the validation rows",
        "test": "score a checkpoint on the test rows",
        "predict": "write what a checkpoint answers on the test rows to predictions.csv",
    }
    lines = ["Language models that sleep.", "", "usage: lmsleep COMMAND [options]   (lmsleep COMMAND --help)", ""]
    lines += [f"  {name:10}{what}" for name, what in trainer.items()]
    lines += ["", *(f"  {name:10}{what}" for name, (_, what) in sorted(COMMANDS.items()))]
    return "\n".join([*lines, "", "Figures: make repro, or dvc repro fig2b."])


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command; `args` default to the command line. A run that SIGTERM ended exits with 143, a bad value with
    one sentence and 1."""
    words = list(sys.argv[1:] if args is None else args)
    if words in ([], ["-h"], ["--help"]):
        print(overview())
        return
    if words[0] in COMMANDS:
        importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])
    else:
        from lmsleep.pipeline.fit import run_trainer  # Lightning is slow to import, and the others do without

        run_trainer(None if args is None else words)


if __name__ == "__main__":
    main()
