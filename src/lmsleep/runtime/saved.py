"""The memory of a session in one safetensors file with a JSON header."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsleep.checks import parse_object, require, typed
from lmsleep.memory import KV, AttentionCache, FastWeights
from lmsleep.model import HybridConfig, HybridLM
from lmsleep.model.hybrid import INIT_FIELDS
from lmsleep.runtime.memory import Memory
from lmsleep.tensors import read_tensors, save_tensors
from lmsleep.windows import Eviction

FORMAT, VERSION = "lmsleep.memory", 1
_NOT_COMPARED = INIT_FIELDS | {"tie_embeddings"}  # fields in which equal models may differ


@dataclass(frozen=True)
class ModelIdentity:
    """Identifies a model: configuration, dtype, and a digest over a sample of every weight."""

    config: HybridConfig
    dtype: str
    weights: str


@dataclass(frozen=True)
class CacheSpec:
    """The structure of an attention cache. layers: number of tensors of each block."""

    position: int
    fresh: int
    held: int
    layers: tuple[int, ...]
    mask: bool


@dataclass(frozen=True)
class GroupSpec:
    """The structure of a memory."""

    rows: tuple[int, ...]
    cache: CacheSpec
    past: CacheSpec


@dataclass(frozen=True)
class Header:
    """The JSON header of a file. on_overflow: as of `SleepSettings`. before, task: as of `Prompter.saved`."""

    version: int
    model: ModelIdentity
    n_passes: int
    eviction: Eviction
    groups: tuple[GroupSpec, ...]
    before: tuple[dict[str, Any], ...] = ()
    task: dict[str, Any] | None = None
    on_overflow: str | None = None


def save_memory(path: str | Path, model: HybridLM, groups: Sequence[Memory], **settings: Any) -> None:
    """Writes the file atomically; `settings` are n_passes, eviction, on_overflow, before and task of the header."""
    # Cloned, since tensors of a memory may share storage, which safetensors does not support.
    tensors = {f"{i}.{name}": x.clone() for i, group in enumerate(groups) for name, x in group.tensors().items()}
    specs = tuple(GroupSpec(group.rows, _cache_spec(group.cache), _cache_spec(group.past)) for group in groups)
    header = Header(version=VERSION, model=model_identity(model), groups=specs, **settings)
    save_tensors(path, tensors, FORMAT, asdict(header))


def load_memory(path: str | Path, model: HybridLM) -> tuple[Header, list[Memory]]:
    """Reads the header, and the groups onto the model's device.

    Raises:
        ValueError: if the file is missing, damaged, of another format or version, or of another model.
    """
    if not Path(path).is_file():
        raise ValueError(f"path must be a saved memory, but there is no file {str(path)!r}")
    try:
        tensors, metadata = read_tensors(path, model.embedding.weight.device)
    except ValueError as error:
        raise ValueError(f"path must be a saved memory; {error}") from None
    if FORMAT not in metadata:
        raise ValueError(f"path must be a saved memory; {str(path)!r} is a safetensors file of something else")
    values = parse_object(metadata[FORMAT], f"the header of {str(path)!r}")
    values.pop("sha256", None)  # checked by now
    if values.get("version") != VERSION:
        raise ValueError(f"version of the saved memory must be {VERSION}, got {values.get('version')!r:.99}")
    header: Header = typed(Header, values, "the header of the saved memory")
    _check_model(header.model, model_identity(model))
    token = torch.zeros(1, 1, dtype=torch.long, device=model.embedding.weight.device)
    with torch.no_grad():
        _, example = Memory.start(model, 1).read(model, token)
    return header, [_restore(group, tensors, f"{i}.", example) for i, group in enumerate(header.groups)]


def model_identity(model: HybridLM) -> ModelIdentity:
    """The identity of a model."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        flat = weight.detach().flatten()
        chosen = torch.linspace(0, len(flat) - 1, min(16, len(flat)), device=flat.device).long()
        digest.update(name.encode() + flat[chosen].double().cpu().numpy().tobytes())
    return ModelIdentity(model.config, str(model.embedding.weight.dtype), digest.hexdigest())


def _check_model(saved: ModelIdentity, current: ModelIdentity) -> None:
    for name in sorted({field.name for field in fields(HybridConfig)} - _NOT_COMPARED):
        before, now = getattr(saved.config, name), getattr(current.config, name)
        require(before == now, f"model must be the one that wrote the memory: its {name} was {before!r}", now)
    if saved.dtype != current.dtype:
        raise ValueError(f"model must be in {saved.dtype:.99}, as when the memory was written, got {current.dtype}")
    if saved.weights != current.weights:
        raise ValueError("model must be the one that wrote the memory: it has the same configuration but other weights")


def _cache_spec(cache: AttentionCache) -> CacheSpec:
    layers = tuple(len(entry or ()) for entry in cache.layers)
    return CacheSpec(cache.position, cache.fresh, cache.held, layers, cache.mask is not None)


def _restore(spec: GroupSpec, tensors: dict[str, Tensor], prefix: str, example: Memory) -> Memory:
    """The memory of a group, from the tensors with a prefix, built as `example`, one of a row and a token."""
    B = len(spec.rows)
    S = FastWeights(tuple(state.expand(B, *state.shape[1:]) for state in example.S.states))
    cache, past = (_cache_of(part, B, example.cache) for part in (spec.cache, spec.past))
    core = tuple(h.expand(B, spec.cache.fresh, -1) for h in example.core) if spec.cache.fresh else ()
    form = Memory((), S, cache, S, past, core)
    expected = form.tensors()
    saved = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    require(expected.keys() == saved.keys(), f"tensors of the saved memory must be {sorted(expected)}", sorted(saved))
    for name, like in expected.items():  # a file without a digest may hold any
        kind = saved[name].dtype, tuple(saved[name].shape)
        floats = kind[0].is_floating_point and like.is_floating_point()  # of another precision within autocast
        fits = kind[1] == like.shape and (floats or kind[0] == like.dtype)
        require(fits, f"{name} of the saved memory must be {like.dtype} of shape {tuple(like.shape)}", kind)
    return form.with_tensors((saved[name] for name in expected), spec.rows)


def _cache_of(spec: CacheSpec, rows: int, example: AttentionCache) -> AttentionCache:
    """A cache with these counts, and layers of the shapes that those of `example`, of one row and token, then have."""
    m, layers = spec.held, []
    for entry in example.layers:
        size = (rows, -1, m, -1) if isinstance(entry, KV) else (rows, -1, -1)
        layers.append(entry and entry._make(x.expand(size) for x in entry))
    mask = torch.empty(1, 1, dtype=torch.bool).expand(rows, m) if spec.mask else None
    return AttentionCache(example.capacity, spec.position, spec.fresh, m, tuple(layers) if spec.layers else (), mask)
