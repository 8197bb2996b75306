"""Checks of values from JSON, YAML and callers, and of files: what is wrong is one sentence in a ValueError."""

import json
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from inspect import formatannotation
from numbers import Integral
from pathlib import Path
from reprlib import repr as shortened
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from yaml import YAMLError

if TYPE_CHECKING:
    import torch

ONE_FILE = "trainer.strategy.save_distributed_checkpoint=false"  # not a folder, which torch reads with pickle
PLUGINS = "LMSLEEP_PLUGINS"  # environment variable: modules that register mixers and backbones, separated by commas
LAST = "last.ckpt"  # of a run of `lmsleep fit`, beside its config.yaml
# Options and settings that name a file or folder, beside options of type Path.
PATHS = ("config", "model", "data", "out", "ckpt_path", "init_from", "train", "val", "test", "tokenizer", "path")
PATHS += ("dirpath", "default_root_dir", "save_dir", "gradient_file")


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
        raise ValueError(f"{name} must be a JSON object, got a {type(values).__name__}")
    return values


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


_OF_CONTENT = (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError, YAMLError)


def sentence(error: Exception) -> str:
    """The message of an error in one line, without what a library calls its input."""
    if isinstance(error, UnicodeDecodeError):
        return f"must be text in UTF-8, got the byte 0x{error.object[error.start]:02x} at position {error.start}"
    if isinstance(error, YAMLError):
        return " ".join(re.sub(r' in "<[^>]*>",', " at", str(error)).split())
    return first_line(error)


def typed(kind: Any, value: Any, name: str) -> Any:
    """Converts a value from JSON or YAML to a type: lists to tuples, objects to dataclasses, integers to float where a
    float is wanted, and nothing else.

    Args:
        kind: int, float, bool, str, a literal, a tuple, dict[str, ...], a dataclass of these, or one of them or None;
            values of any other type are not checked.
        name: of the value, for messages.

    Raises:
        ValueError: if the value is of another type, a number is not finite, or a dataclass refuses its fields.
    """
    if kind is Any:
        return value
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType) and len(kinds := set(args) - {NoneType}) == 1:
        return None if value is None else typed(kinds.pop(), value, name)
    if isinstance(kind, type) and kind not in _KINDS and isinstance(value, Mapping):
        hints = get_type_hints(kind)
        fields = {str(key): typed(hints.get(key), inner, f"{key} in {name}") for key, inner in value.items()}
        try:
            return kind(**fields)
        except TypeError as error:
            raise ValueError(f"{name} must hold the fields of {formatannotation(kind)}: {error}") from None
    if origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        if len(kinds) == len(value):
            return tuple(typed(kind, value[i], f"item {i} of {name}") for i, kind in enumerate(kinds))
    if origin is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: typed(args[1], inner, f"{key} in {name}") for key, inner in value.items()}
    if kind is float and isinstance(value, int | float) and type(value) is not bool and abs(value) <= _LARGEST:
        return float(value)
    if kind in _KINDS and kind is not float and type(value) is kind:
        return value
    if origin is Literal and any(type(value) is type(one) and value == one for one in args):
        return value
    if kind in _KINDS or origin in (tuple, dict, Literal) or is_dataclass(kind):
        allowed = _KINDS.get(origin or kind) or formatannotation(kind)
        raise ValueError(f"{name} must be {allowed}, got {shortened(value)}")
    return tuple(value) if isinstance(value, list) else value


_LARGEST = sys.float_info.max  # excludes nan, inf and integers that no float can hold
_KINDS: dict[Any, str] = {int: "an integer", float: "a finite number", bool: "true or false"}
_KINDS |= {str: "a string", list: "a list", dict: "an object"}


def check_integer(name: str, value: Any, low: int, high: int, note: str = "") -> None:
    """Raises ValueError unless `value` is an integer from `low` to `high`; `note` follows `low` in the message."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {shortened(value)}")
    if not low <= int(value) <= high:
        allowed = f"{low} or more{note}" if int(value) < low else f"at most {high}"
        raise ValueError(f"{name} must be {allowed}, got {shortened(value)}")


def require(allowed: object, rule: str, got: object) -> None:
    """Raises ValueError unless `allowed`; `rule` names the value and what is allowed: "steps must be 0 or more"."""
    if not allowed:
        raise ValueError(f"{rule}, got {got!r}")


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


def usable_device(name: Any) -> "torch.device":
    """A device by name; the CPU for None. Raises ValueError if torch cannot use it here."""
    import torch  # slow to import

    try:
        return torch.empty(0, device="cpu" if name is None else name).device
    except (RuntimeError, AssertionError, TypeError) as error:  # a torch without CUDA asserts
        reason = first_line(error)
        raise ValueError(f"device must be one that torch can use here, got {str(name)!r}: {reason}") from None


def check_file(path: Path, remedy: str = "") -> None:
    """Raises ValueError if there is no such file; `remedy` ends its message where no run left anything."""
    if not path.is_file():
        raise ValueError(f"{path.parent} must hold {path.name}, found none{left_by_run(path.parent) or remedy}")


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
        export = f"{program()} export --ckpt {shlex.quote(str(folder / LAST))} --out OUT"
        return f"; {folder} is of a run, and `{export}` makes a model of it"
    if (folder / "config.yaml").is_file():
        return f"; {folder} is of a run that was broken off before its first checkpoint, and has no weights"
    return ""


def first_line(error: Exception) -> str:
    """The first line of an error's message, without colours; its type if the message is empty."""
    return (re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__])[0]
