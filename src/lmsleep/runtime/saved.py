"""The memory of a session in one safetensors file, with what else is needed to go on in its JSON header."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lmsleep.atomic import atomic_write
from lmsleep.memory import KV, AttentionCache, ConvTail, Eviction, FastWeights
from lmsleep.model import HybridLM
from lmsleep.runtime.memory import Memory

FORMAT, VERSION = "lmsleep.memory", 1


class Saved(NamedTuple):
    """What a file holds."""

    n_passes: int
    eviction: Eviction
    groups: list[Memory]


def save_memory(path: str | Path, model: HybridLM, saved: Saved) -> None:
    """Writes the file; it is there whole or not at all."""
    tensors, described = {}, []
    for i, memory in enumerate(saved.groups):
        # Tensors of one memory may share storage, which the format does not know.
        tensors |= {f"{i}.{name}": tensor.clone().contiguous() for name, tensor in memory.tensors().items()}
        described.append({"rows": memory.rows, "cache": _describe(memory.cache), "past": _describe(memory.past)})
    header = {
        "version": VERSION,
        "model": identity(model),
        "n_passes": saved.n_passes,
        "eviction": saved.eviction,
        "groups": described,
    }
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {FORMAT: json.dumps(header)})


def load_memory(path: str | Path, model: HybridLM) -> Saved:
    """Reads the file onto the model's device.

    Raises:
        ValueError: if the file is missing, truncated, of another format or version, or of another model.
    """
    try:
        with safe_open(path, framework="pt", device=str(model.embedding.weight.device)) as file:
            text = (file.metadata() or {}).get(FORMAT)
            # Mapped tensors lie at odd addresses, for which matrix products round otherwise; a copy is aligned.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"path must be a saved memory, but there is no file {str(path)!r}") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path must be a saved memory; {str(path)!r} cannot be read ({error})") from None
    if text is None:
        raise ValueError(f"path must be a saved memory; {str(path)!r} is a safetensors file of something else")
    header = json.loads(text)
    if header["version"] != VERSION:
        raise ValueError(f"version of the saved memory must be {VERSION}, got {header['version']}")
    _check_model(header["model"], identity(model))
    groups = []
    for i, group in enumerate(header["groups"]):
        own = {name.split(".", 1)[1]: tensor for name, tensor in tensors.items() if name.startswith(f"{i}.")}
        groups.append(_restore(model, group, own))
    return Saved(header["n_passes"], header["eviction"], groups)


def identity(model: HybridLM) -> dict[str, Any]:
    """What tells one model from another: its configuration, its dtype, and a digest over a sample of every weight."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        flat = weight.detach().flatten()
        chosen = torch.linspace(0, len(flat) - 1, min(16, len(flat)), device=flat.device).long()
        digest.update(name.encode() + flat[chosen].double().cpu().numpy().tobytes())
    config = json.loads(json.dumps(model.config.to_dict()))
    return {"config": config, "dtype": str(model.embedding.weight.dtype), "weights": digest.hexdigest()}


def _check_model(saved: dict[str, Any], own: dict[str, Any]) -> None:
    for field in sorted(saved["config"].keys() | own["config"].keys()):
        theirs, mine = saved["config"].get(field), own["config"].get(field)
        if theirs != mine:
            raise ValueError(f"model must be the one that wrote the memory: its {field} was {theirs!r}, got {mine!r}")
    if saved["dtype"] != own["dtype"]:
        raise ValueError(f"model must be in {saved['dtype']}, as when the memory was written, got {own['dtype']}")
    if saved["weights"] != own["weights"]:
        raise ValueError("model must be the one that wrote the memory: it has the same configuration but other weights")


def _describe(cache: AttentionCache) -> dict[str, Any]:
    places = {"position": cache.position, "fresh": cache.fresh, "held": cache.held}
    return places | {"layers": [len(left or ()) for left in cache.layers], "mask": cache.mask is not None}


def _restore(model: HybridLM, group: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Memory:
    """A memory of the described form with these tensors."""
    empty = torch.empty(0, 0)
    kinds = {0: None, 1: ConvTail(empty), 2: KV(empty, empty)}  # by the number of their tensors

    def cache(form: dict[str, Any]) -> AttentionCache:
        layers = tuple(kinds[n] for n in form["layers"])
        mask = empty if form["mask"] else None
        return AttentionCache(model.window_size, form["position"], form["fresh"], form["held"], layers, mask)

    S = FastWeights((empty,) * len(model.blocks.state_shapes))
    form = Memory((), S, cache(group["cache"]), S, cache(group["past"]), (empty,) if "core" in tensors else ())
    names = form.tensors().keys()
    if names != tensors.keys():
        raise ValueError(f"tensors of the saved memory must be {sorted(names)}, got {sorted(tensors)}")
    return form.with_tensors((tensors[name] for name in names), group["rows"])
