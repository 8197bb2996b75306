"""The memory of a session in one safetensors file with a JSON header."""

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmsleep.checks import check_integer, parse_object, require, typed
from lmsleep.memory import KV, AttentionCache, FastWeights, LayerCache
from lmsleep.model import HybridConfig, HybridLM
from lmsleep.model.hybrid import INIT_FIELDS
from lmsleep.runtime.memory import Memory
from lmsleep.tensors import read_tensors, save_tensors
from lmsleep.windows import Eviction, check_n_passes

FORMAT, VERSION = "lmsleep.memory", 1
_NOT_COMPARED = INIT_FIELDS | {"tie_embeddings"}  # fields in which equal models may differ


class SavedMemory(NamedTuple):
    """The content of a file."""

    n_passes: int
    eviction: Eviction
    groups: list[Memory]
    before: tuple[dict[str, Any], ...] = ()  # the messages before a question
    task: dict[str, Any] | None = None  # `Prompter.spec`


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
    """The JSON header of a file."""

    version: int
    model: ModelIdentity
    n_passes: int
    eviction: Eviction
    groups: tuple[GroupSpec, ...]
    before: tuple[dict[str, Any], ...] = ()
    task: dict[str, Any] | None = None


def save_memory(path: str | Path, model: HybridLM, saved: SavedMemory) -> None:
    """Writes the file atomically."""
    # Cloned, since tensors of a memory may share storage, which safetensors does not support.
    tensors = {f"{i}.{name}": x.clone() for i, group in enumerate(saved.groups) for name, x in group.tensors().items()}
    groups = tuple(GroupSpec(group.rows, _cache_spec(group.cache), _cache_spec(group.past)) for group in saved.groups)
    header = Header(VERSION, model_identity(model), saved.n_passes, saved.eviction, groups, *saved[3:])
    save_tensors(path, tensors, FORMAT, asdict(header))


def load_memory(path: str | Path, model: HybridLM) -> SavedMemory:
    """Reads the file onto the model's device.

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
    check_n_passes(header.n_passes)
    _check_model(header.model, model_identity(model))
    rows = [row for group in header.groups for row in group.rows]
    if sorted(rows) != list(range(len(rows))) or not all(group.rows for group in header.groups):
        raise ValueError(f"rows of the saved memory must be 0..{len(rows) - 1}, each in one group, got {rows[:9]}")
    token = torch.zeros(1, 1, dtype=torch.long, device=model.embedding.weight.device)
    with torch.no_grad():
        _, like = Memory.start(model, 1).read(model, token)
    groups = [_restore(group, tensors, f"{i}.", like) for i, group in enumerate(header.groups)]
    return SavedMemory(header.n_passes, header.eviction, groups, header.before, header.task)


def model_identity(model: HybridLM) -> ModelIdentity:
    """The identity of a model."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        flat = weight.detach().flatten()
        chosen = torch.linspace(0, len(flat) - 1, min(16, len(flat)), device=flat.device).long()
        digest.update(name.encode() + flat[chosen].double().cpu().numpy().tobytes())
    return ModelIdentity(model.config, str(model.embedding.weight.dtype), digest.hexdigest())


def _check_model(saved: ModelIdentity, own: ModelIdentity) -> None:
    for name in sorted({field.name for field in fields(HybridConfig)} - _NOT_COMPARED):
        theirs, mine = getattr(saved.config, name), getattr(own.config, name)
        require(theirs == mine, f"model must be the one that wrote the memory: its {name} was {theirs!r}", mine)
    if saved.dtype != own.dtype:
        raise ValueError(f"model must be in {saved.dtype:.99}, as when the memory was written, got {own.dtype}")
    if saved.weights != own.weights:
        raise ValueError("model must be the one that wrote the memory: it has the same configuration but other weights")


def _cache_spec(cache: AttentionCache) -> CacheSpec:
    layers = tuple(len(entry or ()) for entry in cache.layers)
    return CacheSpec(cache.position, cache.fresh, cache.held, layers, cache.mask is not None)


def _restore(group: GroupSpec, tensors: dict[str, Tensor], prefix: str, like: Memory) -> Memory:
    """The memory of a group, from the tensors with a prefix, checked against `like`, a memory of one row and token."""
    B, fresh = len(group.rows), group.cache.fresh

    def shaped(x: Tensor, axis: int | None = None, n: int = 0) -> Tensor:
        shape = [B, *x.shape[1:]]
        if axis is not None:
            shape[axis] = n
        return torch.empty(shape, dtype=x.dtype, device="meta")

    def cache(form: CacheSpec) -> AttentionCache:
        own = _cache_spec(like.cache).layers
        check_integer("fresh in the saved memory", form.fresh, 0, like.cache.capacity)
        check_integer("held in the saved memory", form.held, form.fresh, 2 * like.cache.capacity)
        check_integer("position in the saved memory", form.position, form.held, 2**53)
        if form.layers != own and (form.layers or form.held):
            raise ValueError(f"layers in the saved memory must be {own}, got {form.layers}")

        def entry(one: LayerCache) -> LayerCache:
            return one and one._make(shaped(x, 2 if isinstance(one, KV) else None, form.held) for x in one)

        layers = tuple(map(entry, like.cache.layers)) if form.layers else ()
        mask = torch.empty(B, form.held, dtype=torch.bool, device="meta") if form.mask else None
        return AttentionCache(like.cache.capacity, form.position, form.fresh, form.held, layers, mask)

    S = FastWeights(tuple(map(shaped, like.S.states)))
    form = Memory((), S, cache(group.cache), S, cache(group.past), (shaped(like.core[0], 1, fresh),) if fresh else ())
    own = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    wanted = form.tensors()
    require(wanted.keys() == own.keys(), f"tensors of the saved memory must be {sorted(wanted)}", sorted(own))
    for name, x in wanted.items():
        if own[name].shape != x.shape or own[name].is_floating_point() != x.is_floating_point():
            raise ValueError(
                f"{prefix}{name} of the saved memory must be {x.dtype} {tuple(x.shape)}, "
                f"got {own[name].dtype} {tuple(own[name].shape)}"
            )
    return form.with_tensors((own[name] for name in wanted), group.rows)
