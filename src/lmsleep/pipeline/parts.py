"""State on its way between machines: a checkpoint as safetensors and JSON, files cut into parts with checksums.

A part that ends in a number is a piece of the file named before it: `cat state.tar.* > state.tar` joins them.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUPS = {"state_dict": "weights", "optimizer_states": "optimizer"}  # file of an entry; the others go to `rest`
STATE, ARCHIVE = "rest.json", "state.tar"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # of a file or folder
READ = 1 << 20


def write_state(checkpoint: dict[str, Any], folder: Path) -> None:
    """A checkpoint as weights.safetensors, optimizer.safetensors, rest.safetensors and rest.json, bit for bit.

    rest.json holds everything that is no tensor, and says which tensor belongs where.

    Raises:
        ValueError: if the checkpoint holds something that is no number, string, list, tuple, dict or tensor.
    """
    tensors: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}, "rest": {}}
    tree = {}
    for key, value in checkpoint.items():
        group = GROUPS.get(key, "rest")
        tree[key] = {group: _encode(value, key if group == "rest" else "", tensors[group])}
    for group, content in tensors.items():
        save_file(content, folder / f"{group}.safetensors")
    (folder / STATE).write_text(json.dumps(tree, indent=1))


def read_state(folder: Path) -> dict[str, Any]:
    """The checkpoint that `write_state` wrote."""
    tensors = {group: load_file(folder / f"{group}.safetensors") for group in ("weights", "optimizer", "rest")}
    tree = json.loads((folder / STATE).read_text())
    return {key: _decode(code, tensors[group]) for key, entry in tree.items() for group, code in entry.items()}


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`, in which an object is always a tag and what it tags."""
    if isinstance(value, Tensor):
        assert name not in tensors
        # A copy: safetensors refuses tensors that share memory, such as tied weights.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if value is None or type(value) in (bool, int, float, str):
        return value
    prefix = f"{name}/" if name else ""
    if isinstance(value, dict):
        return {"dict": [[_encode(k, "", {}), _encode(v, f"{prefix}{k}", tensors)] for k, v in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encode(v, f"{prefix}{i}", tensors) for i, v in enumerate(value)]}
    raise ValueError(
        f"{name} of a checkpoint must be made of numbers, strings, lists, tuples, dicts and tensors, got {type(value)}"
    )


def _decode(code: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(code, dict):
        return code
    ((tag, content),) = code.items()
    if tag == "tensor":
        return tensors[content]
    if tag == "dict":
        return {_decode(k, {}): _decode(v, tensors) for k, v in content}
    items = [_decode(v, tensors) for v in content]
    return tuple(items) if tag == "tuple" else items


def export(source: Path, out: Path, limit: int, bundle: bool) -> list[dict[str, Any]]:
    """Writes all files below `source` into `out`, none above `limit` bytes.

    Args:
        bundle: as one archive, which takes the fewest files; otherwise each file on its own, in its folder.

    Returns:
        For each file its name and its parts: name, bytes, sha256.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())
    if not bundle:
        return [_cut(path, out, path.relative_to(source).as_posix(), limit) for path in files]
    archive = source / ARCHIVE
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in files:
            info = tarfile.TarInfo(path.relative_to(source).as_posix())  # without time and owner
            info.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(info, file)
    return [_cut(archive, out, ARCHIVE, limit)]


def restore(files: Sequence[dict[str, Any]], folder: Path, target: Path) -> None:
    """Puts what `export` wrote into `folder` back together in `target`.

    Raises:
        ValueError: if a part is missing or damaged, or a name leads out of the folders.
    """
    for file in files:
        path = inside(target, file["name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as whole:
            for part in file["parts"]:
                whole.write(_checked(inside(folder, part["name"]), part))
        if file["name"] == ARCHIVE:
            with tarfile.open(path) as tar:
                tar.extractall(target, filter="data")
            path.unlink()


def _cut(path: Path, out: Path, name: str, limit: int) -> dict[str, Any]:
    size, parts = path.stat().st_size, []
    count = max(1, -(-size // limit))
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as file:
        for i in range(count):
            part = f"{name}.{i:03}" if count > 1 else name
            digest, left = hashlib.sha256(), min(limit, size - i * limit)
            parts.append({"name": part, "bytes": left})
            with (out / part).open("wb") as target:
                while left:
                    data = file.read(min(READ, left))
                    target.write(data)
                    digest.update(data)
                    left -= len(data)
            parts[-1]["sha256"] = digest.hexdigest()
    return {"name": name, "parts": parts}


def _checked(path: Path, part: dict[str, Any]) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} must be there, as summary.json says, but is missing; copy it again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise ValueError(
            f"{path} is damaged: it must have {part['bytes']:,} bytes and the sha256 that summary.json gives, "
            f"got {len(data):,} bytes; copy it again"
        )
    return data


def inside(folder: Path, name: str) -> Path:
    """The path below `folder`; raises ValueError if the name leads elsewhere."""
    if not all(NAME.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"names in summary.json must lie below its folder, got {name!r}")
    return folder / name
