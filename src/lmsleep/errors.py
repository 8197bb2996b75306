"""Help and error messages of the command line: one sentence for an error that a user can put right."""

import argparse
import inspect
import os
import re
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pydoc import locate
from traceback import extract_tb, walk_tb
from typing import NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from jsonargparse._typehints import get_all_subclass_paths
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lmsleep.checks import require, sentence
from lmsleep.signals import INTERRUPTED, UNREAD

WHERE = "PYTHONPATH=FOLDER says where it lies"
TASK = "data.task.init_args"
NO_TASK = "a run needs a task: give --config, for example configs/experiment/rule110.yaml"
# In messages of jsonargparse: a key with its own message, the rest of the line and the lines below it with a deeper
# indentation; what was expected of a value.
_KEY = re.compile(r'^( *)(?:- )?Parser key "([^"]+)":(.*(?:\n(?:\1 .*)?)*)', re.M)
_EXPECTED = re.compile(r"Expected an? (?:<class '(?:\w+\.)*|typing\.Literal\[)?(.+?)(?:'>|\])?(?:\. .*)?$", re.M)
_NOT_CALLABLE = re.compile(
    r'expects a function or a callable class: (?:Parser key "(\w+)":\s+)?(.+?)(?:\. Got (?!.*\. Got ).*)?$', re.M
)
_SPOKEN = {"int": "an integer", "float": "a finite number", "bool": "true or false", "NoneType": "null"}
_SPOKEN |= {"PositiveInt": "an integer of 1 or more"}
_SETTING = re.compile(r"([a-z][\w.]*)( of the trainer)?(?==\S+ needs | must )")


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the line breaks of a description, which shows commands; names no classes of torch that nobody means."""

    def _expand_help(self, action: argparse.Action) -> str:
        return re.sub(r", known subclasses: torch\.Tensor,[^)]*", "", super()._expand_help(action))


class OneSentenceParser(argparse.ArgumentParser):
    """A parser that reports a bad argument in one sentence, without its usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exits with 2; a nested parser raises ArgumentError instead."""
        if not getattr(self, "exit_on_error", True):
            raise argparse.ArgumentError(None, message) from ex
        self.exit(2, f"error: {argument_sentence(message, options(self))}\n")


class Parser(OneSentenceParser, ArgumentParser):
    """jsonargparse's."""


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options of a parser and of its subcommands, by their strings."""
    inner = [p for a in parser._actions if isinstance(a.choices, dict) for p in a.choices.values()]
    return dict(ChainMap(parser._option_string_actions, *map(options, inner)))


def argument_sentence(message: str, options: Mapping[str, argparse.Action]) -> str:
    """A message of argparse or jsonargparse in one sentence, with the options that were perhaps meant."""
    if unknown := re.search(r"unrecognized arguments: ([^\s=]+)|does not accept option '([^']+)'", message):
        return unknown_option_sentence(unknown[1] or f"--{unknown[2]}", options)
    if plain := re.fullmatch(r"argument ([^/\s:]+)\S*: invalid (\w+) value: '(.*)'", message):
        return f"{plain[1]} must be {_SPOKEN.get(plain[2], plain[2])}, got {plain[3]}"
    keys, rest = [], message
    while inner := _KEY.search(rest):
        keys.append(inner[2])
        rest = inner[3]
    if message.startswith("Unexpected config"):
        return "--config must name a file of settings, such as configs/experiment/rule110.yaml"
    if re.fullmatch(r"the following arguments are required: (\w+\.)?data\.task", message):
        return NO_TASK
    if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = (f"--{name}" if f"--{name}" in options else name for name in missing[1].split(", "))
        return f"{' and '.join(names)} must be given"
    if not keys:
        return " ".join(message.split())
    # A task is a class of several, whose arguments have a level of their own.
    return value_sentence("--" + ".".join(keys).replace("data.task.", f"{TASK}."), rest, options)


def value_sentence(key: str, rest: str, options: Mapping[str, argparse.Action]) -> str:
    """What jsonargparse says of the value of an option `key`, in one sentence."""
    start = f"--{TASK}." if key == "--data.task" else f"{key}."
    if unknown := re.search(r"class_path '([^']+)':\s+Option '([^']+)' is not accepted", rest):
        known = inspect.signature(locate(unknown[1])).parameters  # pyright: ignore[reportArgumentType]
        return unknown_option_sentence(start + unknown[2], [start + name for name in known])
    if key == "--data.task" and "Got value: None" in rest:
        return NO_TASK
    if missing := re.search(r"the following arguments are required: (.*)", rest):
        return " and ".join(start + name for name in missing[1].split(", ")) + " must be given"
    if absent := re.search(r"class_path '([^']+)':\s+(No module named '[^']+')", rest):
        return f"{key} must be a class that can be imported, got {absent[1]}: {absent[2]}; {WHERE}"
    if called := re.search(
        r"Subtypes: \[collections\.abc\.Callable.*dot import path string: (.*?)$", rest, re.S | re.M
    ):
        return f"{key} must be the name of a function, or of a class that can be called, got {called[1]}"
    if name := re.search(r"dot import path string: (.*)", rest):
        return f"{key} must be the name of a class, got {name[1]}{known_classes(options.get(key), name[1])}"
    if refused := _NOT_CALLABLE.search(rest):
        if refused[1] and _EXPECTED.match(refused[2]):
            return value_sentence(f"{key}.init_args.{refused[1]}", refused[2], options)
        return f"{key} must be a function or a class that can be called: {': '.join(filter(None, refused.groups()))}"
    value = re.search(r"(?:Given|Got) value: (.*)", rest)
    settings = ["a mapping of settings"] if "Not a valid subclass of" in rest else []
    kinds = dict.fromkeys([*settings, *_EXPECTED.findall(rest)])
    if not (value and kinds):
        return f"{key}: {' '.join(rest.split())}"
    allowed = " or ".join(_SPOKEN.get(kind, kind.replace("', '", "' or '")) for kind in map(str, kinds))
    return f"{key} must be {allowed}, got {value[1] or 'nothing'}"


def unknown_option_sentence(name: str, options: Collection[str]) -> str:
    """The sentence for an option that does not exist, with the closest ones of `options`."""
    if os.path.exists(name):
        return (
            f"there is no option {name}; a pattern of files must stand in quotes, or the shell puts their names there"
        )
    start, _, last = name.rpartition(".")
    beside = [option.removeprefix(f"{start}.") for option in options if option.startswith(f"{start}.")]
    near = [f"{start}.{found}" for found in get_close_matches(last, beside)] if start else []
    near = near or get_close_matches(name, options, cutoff=0.75)
    return f"there is no option {name}" + (f", but there is {' and '.join(near)}" if near else "")


def known_classes(option: argparse.Action | None, name: str) -> str:
    """What to add to a sentence on a class of this name: the closest that the option knows, or all."""
    paths = get_all_subclass_paths(kind) if (kind := getattr(option, "_typehint", None)) else []
    known = {path.rpartition(".")[2]: path for path in paths}
    near = get_close_matches(name, known) or list(known)
    return f"; there is {', '.join(near)}" if near else ""


def check_paths(words: Sequence[str], names: Collection[str], first: str = "") -> None:
    """Raises ValueError if an option of these names, without what is before its last dot, is empty: as a path it would
    be the current folder. `first` is the name of a word before all options."""
    option = first
    for word in words:
        name, equals, value = word.partition("=")
        option = name.rstrip("+") if word.startswith("-") else option
        empty = equals and not value if word.startswith("-") else not word
        taken = option.rpartition(".")[2].lstrip("-") in names
        require(not (empty and taken), f"{option} must have a value", "")


@contextmanager
def one_sentence(*others: type[Exception]) -> Iterator[None]:
    """Turns errors that a user can cause into SystemExit with `error: <sentence>` and exit code 1: bad values, files
    that cannot be read or written, a loss that is not finite, and `others`. Ctrl-C exits with 130. Any other error is a
    bug and keeps its traceback, as all do with LMSLEEP_TRACEBACK=1. Within the block a warning takes one line."""
    written, warnings.formatwarning = warnings.formatwarning, lambda message, *rest: f"warning: {message}\n"
    try:
        yield
    except (ValueError, FloatingPointError, OSError, YAMLError, OmegaConfBaseException, *others) as error:
        if (type(error) is OSError and error.errno is None) or os.environ.get("LMSLEEP_TRACEBACK"):
            raise
        sys.exit(f"error: {in_yaml(error_sentence(error))}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        warnings.formatwarning = written


@contextmanager
def of_constructors() -> Iterator[None]:
    """Within the block a ValueError of a constructor is raised itself, in place of what jsonargparse makes of it; a
    TypeError, as where a number is null, names no setting, and is said with the module that raised it."""
    try:
        yield
    except ValueError as error:
        cause: BaseException = error
        while cause.__cause__ is not None and _raised_in(cause).partition(".")[0] == "jsonargparse":
            cause = cause.__cause__
        where = f"{_raised_in(cause)} cannot take what it is given: " if isinstance(cause, TypeError) else ""
        raise ValueError(f"{where}{cause}") from None


def _raised_in(error: BaseException) -> str:
    """The module of the line that raised an error."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__"))


@contextmanager
def naming_flags(flags: Mapping[str, str] | Callable[[str, str], str | None]) -> Iterator[None]:
    """Within the block a ValueError that begins with the name of a setting, as "steps must be ..." or "devices of the
    trainer must be ...", has the option in its place that sets it, if there is one: flags["steps"], or
    flags("steps", " must be ..."), which is None if there is none. A setting of the trainer is called
    "trainer.devices"."""
    try:
        yield
    except ValueError as error:
        begin = _SETTING.match(str(error))
        if type(error) is not ValueError or not begin:
            raise
        name, rest = f"trainer.{begin[1]}" if begin[2] else begin[1], str(error)[begin.end() :]
        option = flags.get(name) if isinstance(flags, Mapping) else flags(name, rest)
        raise ValueError(f"{option}{rest}" if option else str(error)) from error


@contextmanager
def quiet_at_closed_pipe() -> Iterator[None]:
    """Ends the program with 141, as if by SIGPIPE, where nobody reads its output any more: `lmsleep | head`; where
    nobody ever did, as under `>&-`, what is said goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:  # rich and `one_sentence` exit within the handler of theirs
        if BrokenPipeError not in (type(error), type(error.__context__)):
            raise
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # which is flushed once more at the end
        sys.exit(UNREAD)


def in_yaml(sentence: str) -> str:
    """A sentence with null, true and false as options and configurations have them, in place of Python's."""
    spoken = {"None": "null", "True": "true", "False": "false"}
    return re.sub(r"\b(be|or|got) (None|True|False)\b", lambda found: f"{found[1]} {spoken[found[2]]}", sentence)


def error_sentence(error: Exception) -> str:
    """The message of an error, worded for a user."""
    if key := getattr(error, "full_key", None):  # of OmegaConf, whose keys begin with the command
        return f"--{key.partition('.')[2]} refers to what cannot be had: {str(error).splitlines()[0]}"
    if isinstance(error, UnicodeDecodeError):
        return f"a file that is read {sentence(error)}"
    if not isinstance(error, OSError) or error.strerror is None:
        return sentence(error) if isinstance(error, YAMLError) else str(error)
    if error.filename is None:
        return error.strerror.lower()
    path = repr(str(error.filename))
    if isinstance(error, FileNotFoundError):
        if extract_tb(error.__traceback__)[-1].name in ("mkdir", "makedirs"):
            return f"the folder {path} cannot be made"
        return f"there is no file or folder {path}"
    return f"{path} cannot be used: {error.strerror.lower()}"
