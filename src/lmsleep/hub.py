"""Folders of checkpoints, here or on the Hugging Face hub."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


def checkpoint_folder(source: str | Path, files: Sequence[str], field: str) -> Path:
    """The local folder of a checkpoint, downloaded if it is a name on the hub.

    Args:
        source: a folder, or `owner/model`, optionally with `@revision`.
        files: patterns of the files to download.
        field: what the caller calls `source`.

    Raises:
        ValueError: if it is neither a folder nor a name that the hub knows.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if not HUB_NAME.fullmatch(str(source)):
        raise ValueError(
            f"{field} must be a folder or a name on the Hugging Face hub (owner/model), got {str(source)!r}"
        )
    from huggingface_hub import snapshot_download

    name, _, revision = str(source).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except Exception as error:  # no network, no such model, no access: the hub's client has many kinds
        raise ValueError(
            f"{source} is no folder here and could not be had from the Hugging Face hub: {first_line(error)}"
        ) from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    _check_there(path)
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must be a JSON object, got a {type(values).__name__}")
    return values


def read_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer in a tokenizer.json.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    from tokenizers import Tokenizer  # slow to import

    _check_there(path)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from None


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path.parent} must hold {path.name}, found none")


def first_line(error: Exception) -> str:
    """The first line of what an error says; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
