"""The device of tensors, and safetensors files, written atomically and verified against a digest in their header."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmsleep.atomic import atomic_write
from lmsleep.checks import counted, first_line

_BLANK = "0" * 64  # stands in the place of the digest while the digest is computed
_DIGEST = re.compile(rb'(?<=\\"sha256\\": \\")[^"]{64}(?=\\")')  # in JSON that is a string within JSON


def usable_device(name: Any) -> torch.device:
    """A device by name; the CPU for None. Raises ValueError if torch cannot use it here."""
    try:
        return torch.empty(0, device="cpu" if name is None else name).device
    except (RuntimeError, AssertionError, TypeError) as error:  # a torch without CUDA asserts
        reason = first_line(error)
        raise ValueError(f"device must be one that torch can use here, got {str(name)!r}: {reason}") from None


def threads() -> str:
    """How many threads torch computes with on the CPU, and if there are several, where they are slow."""
    n = torch.get_num_threads()
    fewer = "; a small model is faster with OMP_NUM_THREADS=1 where other programs take the cores"
    return counted(n, "threads") + (fewer if n > 1 else "")


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], entry: str, header: Mapping[str, Any]) -> None:
    """Writes a safetensors file atomically; the metadata `entry` holds the file's digest and `header` as JSON. One
    entry only: the library writes several in an order that changes from run to run.

    Raises:
        ValueError: if the folder of `path` does not exist, the header does not fit into JSON, or tensors share memory.
        OSError: with the name of `path` if it cannot be written.
    """
    metadata = {entry: json.dumps({"sha256": _BLANK, **header}, allow_nan=False)}
    with atomic_write(path) as temporary:
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        except SafetensorError as error:  # which is no OSError
            number = re.search(r"(?:os error|code:) (\d+)", str(error))  # since safetensors 0.7, before
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else error) from None
        except RuntimeError as error:
            raise ValueError(f"tensors must not share memory: {error}".splitlines()[0]) from None
        place, _, digest = _digest(temporary)
        with temporary.open("r+b") as file:
            file.seek(place)
            file.write(digest)


def read_tensors(path: str | Path, device: torch.device | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file, which is verified against its digest if it has one.

    Raises:
        ValueError: if the file is no safetensors file or differs from its digest.
        OSError: if it cannot be opened.
    """
    path = Path(path)
    _, recorded, digest = _digest(path)
    if recorded != digest:
        raise ValueError(f"{str(path)!r} is damaged: it differs from the digest in it")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            # Mapped tensors lie at odd addresses, for which matrix products round otherwise; a copy is aligned.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged or no safetensors file: {error}") from None


def _digest(path: Path) -> tuple[int, bytes, bytes]:
    """Offset of the digest in a safetensors file, the digest found there, and the file's actual one; two empty ones if
    the header has none."""
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), 10**8))  # the format allows no more
        if (match := _DIGEST.search(header)) is None:
            return 0, b"", b""
        hasher = hashlib.sha256(length + header[: match.start()] + _BLANK.encode() + header[match.end() :])
        return 8 + match.start(), match[0], hashlib.file_digest(file, lambda: hasher).hexdigest().encode()
