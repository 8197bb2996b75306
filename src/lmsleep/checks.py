"""Checks of values from JSON, YAML and callers, and of files: what is wrong is one sentence in a ValueError."""

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache, wraps
from inspect import formatannotation, signature
from numbers import Integral, Real
from pathlib import Path, PurePath
from reprlib import repr as shortened
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from yaml import YAMLError

Function = TypeVar("Function", bound=Callable[..., Any])

ONE_FILE = "trainer.strategy.save_distributed_checkpoint=false"  # not a folder, which torch reads with pickle
PLUGINS = "LMSLEEP_PLUGINS"  # environment variable: modules that register mixers and backbones, separated by commas
LAST = "last.ckpt"  # of a run of `lmsleep fit`, beside its config.yaml
# Options and settings that name a file or folder, beside options of type Path.
PATHS = ("config", "model", "data", "out", "ckpt_path", "init_from", "train", "val", "test", "tokenizer", "path")
PATHS += ("dirpath", "default_root_dir", "save_dir", "gradient_file")

# Errors that the content of a file causes.
_OF_CONTENT = (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError, YAMLError)
_hints = cache(get_type_hints)
_PLAIN: dict[Any, Any] = {int: Integral, float: Real, str: (str, PurePath)}  # by the type that they become
_WORDS: dict[Any, str] = {int: "an integer", float: "a finite number", bool: "true or false", Callable: "a function"}
_WORDS |= {str: "a string", list: "a list", dict: "an object"}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError if there is no such file, or it holds anything else."""
    check_file(path)
    return parse_object(path.read_bytes(), str(path))


def text_of(path: Path) -> str:
    """A text of a user. Raises ValueError or OSError, which name the file, if it cannot be read or is not UTF-8."""
    with naming_file(path):
        return decode_text(path.read_bytes())


def decode_text(text: bytes) -> str:
    """A text in UTF-8, or a line of it: a byte order mark, and how a system ends lines, are none of it. Raises
    UnicodeDecodeError, a ValueError."""
    return text.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str | bytes) -> Any:
    """Parses JSON. Raises json.JSONDecodeError, a ValueError, if it is invalid or nested too deep, and ValueError if an
    object has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_keys_once)
    except RecursionError as error:
        raise json.JSONDecodeError(str(error), "", 0) from None


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"{twice!r} must be a key of an object once, got it twice")
    return values


def parse_object(text: str | bytes, name: str) -> dict[str, Any]:
    """Parses a JSON object. Raises ValueError, which says `name`, if it is none."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be a JSON object, got {json_kind(values)}")
    return values


def json_kind(value: Any) -> str:
    """What a value of JSON is called in messages."""
    kinds = {NoneType: "null", int: "a number", float: "a number"}
    return kinds.get(type(value)) or _WORDS.get(type(value), type(value).__name__)


@contextmanager
def naming_file(path: object, *others: str) -> Iterator[None]:
    """Turns errors that the content of a file causes within the block into ValueError beginning with the path; messages
    that already name the path or one of `others` stay as they are. An OSError has the path as its file, unless it has
    one, as that of reading has not."""
    try:
        yield
    except (*_OF_CONTENT, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path) if error.filename is None else error.filename
            raise
        message = sentence(error)
        if not isinstance(error, ValueError | YAMLError):
            message = f"must be as its stage writes it, got {type(error).__name__}: {message}"
        named = any(name in message for name in (str(path), *others))
        raise ValueError(message if named else f"{path}: {message}") from error


def sentence(error: Exception) -> str:
    """The message of an error in one line, without what a library calls its input."""
    if isinstance(error, UnicodeDecodeError):
        return f"must be text in UTF-8, got the byte 0x{error.object[error.start]:02x} at position {error.start}"
    if isinstance(error, YAMLError):
        return " ".join(re.sub(r' in "<[^>]*>",', " at", str(error)).split())
    return first_line(error)


def typed(kind: Any, value: Any, name: str, *, loose: bool = False) -> Any:
    """Converts a value from JSON, YAML or a caller to a type: lists to tuples, objects to dataclasses, integers to
    float where a float is wanted, numbers of numpy to plain ones, paths to strings, and nothing else.

    Args:
        kind: int, float, str, a class, a literal, a tuple or Sequence of these, dict[str, ...], a Callable, or one of
            these or None. A value of one of several classes stays as it is; one of any other type is not checked.
        name: of the value, for messages.
        loose: takes integers, infinity and nan as float, and tuples of any length, for who says more about them.

    Raises:
        ValueError: if the value is of another type, a number is not finite, or a dataclass refuses its fields.
    """
    if type(value) is kind and kind is not float:  # as most values are: settings are checked in every training step
        return value
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        kinds = [one for one in args if one is not NoneType]
        if len(kinds) == 1 and value is not None:
            return typed(kinds[0], value, name, loose=loose)
        if any(_is_of(one, value, loose) for one in args):
            return value
    elif origin in (tuple, Sequence):
        items = value if isinstance(value, list | tuple) else ()
        free = origin is Sequence or args[1:] == (...,) or (loose and len(items) != len(args))
        kinds = args[:1] * len(items) if free else args
        if items is value and len(kinds) == len(items):
            return tuple(typed(kinds[i], one, f"item {i} of {name}", loose=loose) for i, one in enumerate(items))
    elif origin in (dict, Mapping):
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: typed(args[1], one, f"{key} in {name}", loose=loose) for key, one in value.items()}
    elif _is_of(kind, value, loose):
        kept = kind not in _PLAIN or (loose and type(value) is int)
        return value if kept else kind(value)
    elif isinstance(kind, type) and kind not in _WORDS and isinstance(value, Mapping):
        inner = {str(key): typed(_hints(kind).get(key), one, f"{key} in {name}") for key, one in value.items()}
        try:
            return kind(**inner)
        except TypeError as error:
            raise ValueError(f"{name} must hold the fields of {formatannotation(kind)}: {error}") from None
    choice = f"one of {', '.join(map(str, args))}" if origin is Literal else _WORDS.get(origin or kind)
    raise ValueError(f"{name} must be {choice or formatannotation(kind)}, got {shortened(value)}")


def _is_of(kind: Any, value: Any, loose: bool) -> bool:
    """Whether a value is of a type, whatever is in it; True of a type of which Python cannot tell."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in get_args(kind))
    if origin in _PLAIN and isinstance(value, bool):
        return False
    try:
        return isinstance(value, _PLAIN.get(origin, origin)) and (origin is not float or loose or math.isfinite(value))
    except TypeError:
        return True
    except OverflowError:  # an integer that no float can hold
        return False


def check_types(config: Any) -> None:
    """Makes the fields of a dataclass what `typed` makes of them, by its annotations: the first of its own checks,
    which say more of numbers and tuples."""
    for name in (field.name for field in fields(config)):
        value = typed(_hints(type(config))[name], getattr(config, name), name, loose=True)
        object.__setattr__(config, name, value)  # it is frozen


def checked(function: Function) -> Function:
    """The function, whose arguments are what `typed` makes of them, by its annotations."""
    parameters = signature(function)
    names = {name for name, p in parameters.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(*args, **kwargs)
        for name in names & given.arguments.keys():
            given.arguments[name] = typed(_hints(function).get(name, Any), given.arguments[name], name, loose=True)
        return function(*given.args, **given.kwargs)

    return call  # pyright: ignore[reportReturnType]


def counted(count: Any, things: str) -> str:
    """A number of things: 1, rows -> 1 row; 2000, rows -> 2,000 rows."""
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def check_integer(name: str, value: Any, low: int, high: int, note: str = "") -> None:
    """Raises ValueError unless `value` is an integer from `low` to `high`; `note` follows `low` in the message."""
    if not low <= (number := typed(int, value, name)) <= high:
        allowed = f"{low} or more{note}" if number < low else f"at most {high}"
        raise ValueError(f"{name} must be {allowed}, got {shortened(value)}")


def check_distinct(**values: Sequence[object]) -> None:
    """Raises ValueError if one of the lists is empty or has a value twice."""
    for name, numbers in values.items():
        if not numbers:
            raise ValueError(f"{name} must be one or more, got none")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{name} must differ, got {', '.join(map(str, numbers))}")


def require(allowed: object, rule: str, got: object) -> None:
    """Raises ValueError unless `allowed`; `rule` names the value and what is allowed: "steps must be 0 or more"."""
    if not allowed:
        raise ValueError(f"{rule}, got {got!r}")


def check_file(path: Path, remedy: str = "") -> None:
    """Raises ValueError if there is no such file; `remedy` ends its message where no run left anything."""
    if not path.is_file():
        folder = "the current folder" if path.parent == Path() else path.parent
        raise ValueError(f"{folder} must hold {path.name}, found none{left_by_run(path.parent) or remedy}")


def program() -> str:
    """How a command that a user is told begins: `lmsleep`, or the script that runs it as this command was run, behind
    the variables by which it finds modules."""
    script, name = sys.argv[0], "lmsleep"
    if script.endswith(".py") and sys.argv[1:2] in (["fit"], ["finetune"], ["chat"], ["demo"]):
        name = f"python {'-m lmsleep' if Path(script).name == '__main__.py' else shlex.quote(script)}"
    found = {key: value for key in ("PYTHONPATH", PLUGINS) if (value := os.environ.get(key))}
    return " ".join([*(f"{key}={shlex.quote(value)}" for key, value in found.items()), name])


def left_by_run(folder: Path) -> str:
    """The end of a message about a file that is missing in a folder: what a run of `lmsleep fit` left there."""
    if (folder / LAST).is_file():
        export = f"{program()} export --ckpt={shlex.quote(str(folder / LAST))} --out OUT"
        return f"; {folder} is of a run, and `{export}` makes a model of it"
    if (folder / "config.yaml").is_file():
        started = f"{folder} is of a run that was broken off before its first checkpoint"
        return f"; {started}, and has no weights: start that again, without --ckpt_path"
    return ""


def first_line(error: Exception) -> str:
    """The first line of an error's message, without colours; its type if the message is empty."""
    return (re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__])[0]
