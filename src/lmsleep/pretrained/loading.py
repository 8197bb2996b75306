"""Loads pretrained weights from a folder or a name on the Hugging Face hub; only safetensors and JSON are read."""

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lmsleep.checks import read_object, require, typed
from lmsleep.hub import checkpoint_folder
from lmsleep.model import HybridConfig, HybridLM
from lmsleep.model.folder import all_finite, read_config
from lmsleep.model.hybrid import INIT_FIELDS
from lmsleep.model.mixers import load_plugins
from lmsleep.pretrained.backbone import Backbone, HFConfig, Origin, match_layers, middle_loop
from lmsleep.pretrained.jet_nemotron import JET_NEMOTRON
from lmsleep.pretrained.llama import LLAMAS
from lmsleep.pretrained.ouro import OURO
from lmsleep.pretrained.qwen3_next import QWENS
from lmsleep.pretrained.saved import SAVED, Saved

BACKBONES = {"jet_nemotron": JET_NEMOTRON, "ouro": OURO, **LLAMAS, **QWENS, **SAVED}
INDEX = "model.safetensors.index.json"
VISION_PREFIX = "model.language_model."  # prefix of the language model in a vision-language checkpoint
FILES = ("config.json", "*.safetensors", INDEX, "tokenizer.json")

# Fields that may differ from the checkpoint's configuration; the second set only if it has no fast-weight layers.
_FREE = INIT_FIELDS | {"window_size", "pattern", "loop", "delta"}
_FREE_WHERE_INSERTED = {"fast_heads", "fast_key_dim", "fast_value_dim", "fast_key_heads", "fast_norm_eps"}
_FREE_WHERE_INSERTED |= {"conv_size", "allow_neg_eigval"}


def register_backbone(model_type: str, backbone: Backbone) -> None:
    """Registers how checkpoints whose config.json has this `model_type` are read. Raises ValueError for a type that is
    read already."""
    mine = BACKBONES.get(model_type, backbone) is backbone
    require(mine, "model_type must be one that is not read yet", model_type)
    BACKBONES[model_type] = backbone


def pretrained_config(source: str | Path, **changes: Any) -> HybridConfig:
    """The configuration of a checkpoint (a folder, or a name on the hub, optionally with `@revision`), with window_size
    left open; `changes` are fields of it. With another pattern, a sleep repeats the middle half of that, where it does
    of the checkpoint's. Raises ValueError if there is none, or it is of no known family or not supported."""
    known = [field.name for field in fields(HybridConfig)]
    for name in changes:
        near = f", such as {closest[0]}" if (closest := get_close_matches(name, known)) else ""
        require(name in known, f"changes must be fields of HybridConfig{near}", name)
    config = _family_and_config(_folder(source))[1]
    if isinstance(changes.get("pattern"), str) and config.loop == middle_loop(config.pattern):
        changes = {"loop": middle_loop(changes["pattern"])} | changes
    return replace(config, **changes)


def load_pretrained(source: str | Path, window_size: int, **changes: Any) -> HybridLM:
    """The model of a checkpoint, in float32, with the given window; `changes` as of `pretrained_config`. With the
    blocks of a model that we saved, it has the metadata of its training too, of which N is one.

    Raises:
        ValueError: as `pretrained_config` and `load_weights`.
    """
    folder = _folder(source)
    model = pretrained_config(folder, window_size=window_size, **changes).build()
    load_weights(model, folder)
    backbone, config = _family_and_config(folder)
    if isinstance(backbone, Saved) and config.pattern == model.config.pattern:
        model.trained = read_config(folder)[1]
    return model


def load_weights(model: HybridLM, source: str | Path) -> None:
    """Copies a checkpoint into a model; inserted blocks keep their weights. Nothing is copied unless all checks pass.

    Raises:
        ValueError: if the model does not fit the checkpoint, a file is missing or damaged, or a tensor is missing,
            unknown, of another shape, not floating point or not finite.
    """
    folder = _folder(source)
    backbone, config = _family_and_config(folder)
    stored = backbone.stored(config)
    _check_config(model.config, config, stored, folder)
    targets = dict(model.named_parameters())  # a tied head appears once, as the embedding
    tensors = _tensors(folder)
    prefix = VISION_PREFIX if any(name.startswith(VISION_PREFIX) for name in tensors) else "model."
    origins = backbone.origins(model.config, targets, prefix, stored)
    unused = (*backbone.unused, *(("lm_head.weight",) if config.tie_embeddings else ()))
    _check_tensors(targets, origins, tensors, unused, model.config, folder)
    with torch.no_grad():
        for name, origin in origins.items():
            value = tensors[origin.name].get_tensor(origin.name)
            targets[name].copy_(origin.part_of(value.to(torch.promote_types(value.dtype, torch.float32)), config))


def _folder(source: str | Path) -> Path:
    return checkpoint_folder(source, FILES, "init_from")


def _family_and_config(folder: Path) -> tuple[Backbone, HybridConfig]:
    hf = HFConfig.read(folder)
    family = hf.take("model_type", str)
    if family not in BACKBONES:
        load_plugins()
    rule = f"model_type in {hf.source} must be {' or '.join(BACKBONES)}, or one of register_backbone"
    require(family in BACKBONES, rule, family)
    return BACKBONES[family], BACKBONES[family].config(hf)


def _check_config(ours: HybridConfig, theirs: HybridConfig, stored: str, folder: Path) -> None:
    """Raises ValueError unless our blocks are the checkpoint's and inserted ones, and all fields that are not free
    agree."""
    between = "between them none but blocks without MLP (lower case)"
    allowed = f"pattern of the model must have the blocks {stored} of {folder}, and {between}"
    require(match_layers(ours.pattern, stored) is not None, allowed, ours.pattern)
    family = HFConfig.read(folder).take("model_type", str)
    free = _FREE | (set() if set(stored.upper()) - set("AW") else _FREE_WHERE_INSERTED)
    mine, wanted = ({name: value for name, value in c.to_dict().items() if name not in free} for c in (ours, theirs))
    for config in (mine, wanted):  # inserted mixers have options of their own
        options = config["rule_options"] or {}
        config["rule_options"] = {letter: options[letter] for letter in options if letter in stored.upper()}
    if differ := [name for name in mine if mine[name] != wanted[name]]:
        too = f"; others that do not fit: {', '.join(differ[1:])}" if differ[1:] else ""
        allowed = f"{differ[0]} of the model must be {wanted[differ[0]]!r} as in the {family} checkpoint {folder}"
        raise ValueError(f"{allowed}, got {mine[differ[0]]!r}{too}")


def _tensors(folder: Path) -> dict[str, Any]:
    """Tensor name -> the open file that holds it."""
    tensors: dict[str, Any] = {}
    for path in _files(folder):
        if not path.is_file():
            raise ValueError(f"{path} is missing, though {INDEX} lists it")
        try:
            file = safe_open(path, "pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
        tensors |= dict.fromkeys(file.keys(), file)
    return tensors


def _files(folder: Path) -> list[Path]:
    index, whole = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        names = set(typed(dict[str, str], read_object(index).get("weight_map"), f"weight_map in {index}").values())
        for name in names:
            require(Path(name).name == name, f"weight_map in {index} must name files beside it", name)
        return sorted(folder / name for name in names)
    if whole.is_file():
        return [whole]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    hint = f"; {pickles[0]} is a pickle, which can run code and is not read" if pickles else ""
    raise ValueError(f"{folder} must hold model.safetensors or {INDEX}, found neither{hint}")


def _check_tensors(
    targets: Mapping[str, Tensor],
    origins: Mapping[str, Origin],
    tensors: dict[str, Any],
    unused: tuple[str, ...],
    config: HybridConfig,
    folder: Path,
) -> None:
    """Raises ValueError unless parameters and tensors match one to one and all values are finite."""
    used = {origin.name for origin in origins.values()}
    if missing := sorted(used - set(tensors)):
        raise ValueError(f"{folder} lacks {_first_names(missing)}")
    left = set(tensors) - used
    if unknown := sorted(name for name in left if not any(fnmatchcase(name, pattern) for pattern in unused)):
        raise ValueError(f"{folder} has {_first_names(unknown)}, which the model does not know")
    for name, origin in origins.items():
        shape = tuple(tensors[origin.name].get_slice(origin.name).get_shape())
        wanted = tuple(targets[name].shape)
        try:
            fits = origin.part_of(torch.empty(shape, device="meta"), config).shape == wanted
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"{origin.name} in {folder} must fit {name} of shape {wanted}, got shape {shape}")
    for name in sorted(used):
        value = tensors[name].get_tensor(name)
        if not value.is_floating_point() or not all_finite(value):
            raise ValueError(f"{name} in {folder} must hold finite floating-point numbers, got others")


def _first_names(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{rest}"
