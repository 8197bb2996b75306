"""The command line: a table of commands, each a module whose `main` takes the options as typed parameters."""

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from lmsleep.checks import PATHS
from lmsleep.errors import (
    HelpFormatter,
    Parser,
    check_paths,
    naming_flags,
    of_constructors,
    one_sentence,
    quiet_at_closed_pipe,
)
from lmsleep.signals import ending_at_ctrl_c

TRAINER = {
    "fit": "train: lmsleep fit --config configs/experiment/rule110.yaml --sleep.n_passes=4",
    "validate": "score a checkpoint on the validation rows",
    "test": "score a checkpoint on the test rows",
    "predict": "write what a checkpoint answers on the test rows to predictions.csv",
}
# Commands that take the arguments of fit: (module whose `main` parses them, help).
RUNS = {
    "finetune": ("lmsleep.commands.finetune", "fine-tune a pretrained model on documents, or on questions and answers"),
    "plan": ("lmsleep.commands.plan", "say what a run will cost by taking its first steps: time, memory"),
    "bench train": ("lmsleep.bench.train", "measure a training step at several N, beside other gated delta rules"),
    "bench scale": ("lmsleep.bench.scale", "measure a training step over several devices, whole or sharded models"),
}
# All other commands: (module whose `main` has typed parameters, help). A module is imported when its command is run.
COMMANDS = {
    "export": ("lmsleep.pretrained.export", "turn a checkpoint into a folder that from_pretrained reads"),
    "replay": ("lmsleep.commands.replay", "repeat the step at which a loss or a gradient was not finite"),
    "chat": ("lmsleep.runtime.chat", "read documents, sleep on them, answer questions"),
    "demo": ("lmsleep.runtime.demo", "watch a model read, fall asleep and answer"),
    "doctor": ("lmsleep.commands.doctor", "say which backends are used and why, and how to add what is missing"),
    "bench wake": ("lmsleep.bench.wake", "measure latency of a token and pause of a sleep against context and N"),
    "bench window": ("lmsleep.bench.window", "measure training throughput against window size and N (figure 6)"),
}
NAMES = (*TRAINER, *RUNS, *COMMANDS)
# Options that read a configuration file.
CONFIGURED = ("config", "model", "data", "task", "sleep", "checkpoint", "trainer", "optimizer")


@quiet_at_closed_pipe()
def main(args: Sequence[str] | None = None) -> None:
    """Runs one command; `args` default to the command line. Exit codes: 1 for a bad value, 2 for arguments that cannot
    be parsed, 130 for Ctrl-C, 141 for a closed output, 143 for SIGTERM."""
    # Before torch is loaded: its threads would else spin for each other, and hundreds of times longer on busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    words = resolve_configs(sys.argv[1:] if args is None else args)
    if args is None:
        sys.argv[1:] = words  # Lightning reads it, and starts the processes of other devices with it
    name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in NAMES), "")
    rest = words[len(name.split()) :]
    if name in TRAINER or name in RUNS:
        with one_sentence():
            check_paths(rest, PATHS)
    if name in TRAINER:
        load("lmsleep.commands.fit").run_trainer(None if args is None else words)
    elif name in RUNS:
        load(RUNS[name][0]).main(rest)
    elif name in COMMANDS:
        run(load(COMMANDS[name][0]).main, rest, f"lmsleep {name}")
    elif {"-h", "--help"} & set(words) or words in ([], ["bench"]):
        print(overview())
    elif words == ["--version"]:
        from lmsleep import __version__

        print(f"lmsleep {__version__}")
    else:
        command = " ".join(words[: 2 if words[0] == "bench" else 1])
        near = get_close_matches(command, NAMES)[:1]
        hint = f", but there is {near[0]!r}" if near else ""
        print(f"error: there is no command {command!r}{hint}; lmsleep --help lists all", file=sys.stderr)
        sys.exit(2)


def load(module: str) -> ModuleType:
    """Imports a module, unless Ctrl-C ends the program meanwhile."""
    with ending_at_ctrl_c():
        return importlib.import_module(module)


def run(function: Callable[..., Any], args: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Calls a function with options from `args`, by default the command line. Its signature gives their names, types
    and defaults, its docstring their help, its module's docstring the description; a single one is positional. Errors
    as of `one_sentence`."""
    parameters = inspect.signature(function).parameters.values()
    alone = len(parameters) == 1
    needed = [p.name if alone else f"--{p.name} {p.name.upper()}" for p in parameters if p.default is p.empty]
    usage = " ".join(["%(prog)s", *needed, "[options]"])
    description = inspect.getdoc(inspect.getmodule(function))
    options: dict[str, Any] = {"usage": usage, "formatter_class": HelpFormatter, "allow_abbrev": False}
    parser = Parser(prog=prog, description=description, **options)
    parser.add_function_arguments(function, as_group=False, as_positional=alone)
    flags = {} if alone else {p.name: f"--{p.name}" for p in parameters}
    with one_sentence(), naming_flags(flags):
        given = list(sys.argv[1:] if args is None else args)
        taken = [p.name for p in parameters if p.name in PATHS or Path in (p.annotation, *get_args(p.annotation))]
        check_paths(given, taken, *(p.name for p in parameters if alone))
        words = join_list_options(function, given)
        parsed = parser.parse_args(words)
        with of_constructors():
            values = vars(parser.instantiate(parsed))
        # Defaults, too, which no word says.
        read = {name: Path(packaged(str(values[name]))) for name in CONFIGURED if isinstance(values.get(name), Path)}
        function(**values | read)


def resolve_configs(words: Sequence[str]) -> list[str]:
    """Replaces names under configs/ that do not exist here by the files in the package, after options that read
    them."""
    resolved = []
    for before, word in zip(["", *words], words, strict=False):
        option, equals, name = word.rpartition("=")
        is_read = (option or before).lstrip("-").rpartition(".")[2] in CONFIGURED
        resolved.append(f"{option}{equals}{packaged(name)}" if is_read else word)
    return resolved


def packaged(name: str) -> str:
    """The file in the package for a name under configs/ that does not exist here; else the name."""
    path = Path(__file__).parent / name
    replaced = name.startswith("configs/") and not Path(name).exists() and path.is_file()
    return str(path) if replaced else name


def join_list_options(function: Callable[..., Any], args: Sequence[str]) -> list[str]:
    """Joins the files of an option into one list, as of `--read a.txt b.txt`, and adds `true` to a switch alone."""
    kinds = {f"--{p.name}": p.annotation for p in inspect.signature(function).parameters.values()}
    words, todo = [], list(args)
    while todo:
        word = todo.pop(0)
        name, equals, file = word.partition("=")
        if word in kinds and kinds[word] is bool and (not todo or todo[0].startswith("-")):
            word = f"{word}=true"
        if kinds.get(name) == list[Path] and file[:1] != "[":
            files = [file] if equals else list(takewhile(lambda word: not word.startswith("-"), todo))
            del todo[: 0 if equals else len(files)]
            word = f"{name}+={json.dumps(files)}"  # given again, it adds to them
        words.append(word)
    return words


def overview() -> str:
    """The text of `lmsleep --help`."""
    lines = [
        "Language models that sleep.",
        "",
        "usage: lmsleep COMMAND [options]   (lmsleep COMMAND --help, lmsleep --version)",
        "",
    ]
    lines += [f"  {name:14}{what}" for name, what in TRAINER.items()]
    lines += ["", *(f"  {name:14}{what}" for name, (_, what) in {**RUNS, **COMMANDS}.items())]
    return "\n".join([*lines, "", "Figures: make repro, or dvc repro figure@fig2b."])


if __name__ == "__main__":
    main()
