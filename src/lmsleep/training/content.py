"""Checks of a checkpoint's content, before any of it is restored."""

import re
from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lmsleep.checks import require, typed
from lmsleep.model.folder import check_finite
from lmsleep.training.optimizer import MuonAdamW

# The types of the keys that are read, each if it is there.
CONTENT: dict[str, Any] = dict.fromkeys(("state_dict", "model_config", "sleep", "settings"), dict[str, Any])
CONTENT |= dict.fromkeys(("loops", "callbacks"), dict[str, dict[str, Any]])
CONTENT |= dict.fromkeys(("optimizer_states", "lr_schedulers"), tuple[dict[str, Any], ...])
CONTENT |= dict.fromkeys(("epoch", "global_step", "max_steps"), int)
CONTENT |= {"lora": dict[str, Any] | None, "pytorch-lightning_version": str}


def check_content(content: Any, name: str) -> None:
    """Raises ValueError, which names the key, unless `content` is that of a checkpoint."""
    typed(dict[str, Any], content, name)
    for key in ("state_dict", "pytorch-lightning_version"):
        require(key in content, f"{name} must be of `lmsleep fit`, with {key}", ", ".join(content) or "nothing")
    for key in CONTENT.keys() & content.keys():
        typed(CONTENT[key], content[key], f"{key} in {name}")
    key, version = "pytorch-lightning_version", content["pytorch-lightning_version"]
    require(re.match(r"\d+\.\d+", version), f"{key} in {name} must be a version, as 2.6.0", version)


def check_states(trainer: L.Trainer, content: Mapping[str, Any]) -> None:
    """Raises ValueError, which names the place, unless what a trainer will restore has the structure of what it would
    save. Optimizers and schedulers are checked only once the strategy has set them up."""
    name = f"checkpoint {str(trainer.ckpt_path)!r}"
    fn, callbacks = getattr(trainer.state.fn, "value", ""), content.get("callbacks", {})
    ours = [c for c in trainer.callbacks if type(c).__module__.startswith("lmsleep.")]  # pyright: ignore
    own: dict[str, Any] = {
        "loops": {f"{fn}_loop": getattr(trainer, f"{fn}_loop").state_dict()},
        "callbacks": {c.state_key: c.state_dict() for c in ours if c.state_key in callbacks},
    }
    module = trainer.lightning_module
    if module.strict_loading and "state_dict" in content:  # absent if the strategy loads it
        own["state_dict"] = weights = module.state_dict()
        more = ", ".join(content["state_dict"].keys() - weights.keys())
        require(not more, f"state_dict in {name} must hold the weights of the model alone", more)
    if fn == "fit":
        own |= {"optimizer_states": [{} for _ in trainer.optimizers]}
        own |= {"lr_schedulers": [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]}
    check_structure(content, {key: value for key, value in own.items() if fn == "fit" or key in content}, name)
    for i, optimizer in enumerate(own.get("optimizer_states", []) and trainer.optimizers):
        place = f"item {i} of optimizer_states in {name}"
        check_optimizer(content["optimizer_states"][i], optimizer, module, place)


def check_optimizer(got: Mapping[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module, name: str) -> None:
    """Raises ValueError unless `got` fits the optimizer; a parameter has all of its state or none."""
    check_structure(got, optimizer.state_dict() | {"state": {}}, name)
    if not isinstance(optimizer, MuonAdamW):
        return
    parts: dict[Any, dict[str, Tensor]] = {}
    numbers = {id(p): i for i, p in enumerate(model.parameters())}
    for group, saved in zip(optimizer.param_groups, got["param_groups"], strict=True):
        params, ids = group["params"], saved["params"]
        # A sharded run numbers parameters in the order of the model, any other by their places in the groups.
        sharded = [numbers[id(p)] for p in params] if isinstance(params[0], DTensor) else ids
        where = f"in param_groups in {name} must be"
        require(ids == sharded, f"params {where} numbered as a sharded run does", shortened(ids))
        require(saved["muon"] == group["muon"], f"muon {where} {group['muon']}", saved["muon"])
        of_one = ("momentum",) if group["muon"] else ("exp_avg", "exp_avg_sq")
        step = {} if group["muon"] else {"step": torch.zeros(())}
        parts |= {i: dict.fromkeys(of_one, p) | step for i, p in zip(ids, params, strict=True)}
    known = sum(len(group["params"]) for group in optimizer.param_groups)
    require(len(parts) == known, f"params in param_groups in {name} must be {known} numbers", len(parts))
    for p, state in got["state"].items():
        require(p in parts, f"state in {name} must be of {', '.join(map(str, parts))}", p)
        check_structure(state, parts[p], f"{p} in state in {name}")
        check_finite({key: state[key] for key in parts[p]}, f"{p} in state in {name}")


def check_structure(got: Any, own: Any, name: str) -> None:
    """Raises ValueError, which names the place, unless `got` has the structure of `own`: keys (except private ones,
    which differ between versions of a library), types of values, shapes of tensors. Where `own` is empty, `got` may
    hold more; where it is None, a tensor."""
    if isinstance(own, Tensor):
        found = tuple(got.shape) if isinstance(got, Tensor) else shortened(got)
        require(found == tuple(own.shape), f"{name} must be a tensor of shape {tuple(own.shape)}", found)
    elif isinstance(own, Mapping):
        if not isinstance(got, Mapping):  # no `require`: to write out what is right, tensors too, takes long
            raise ValueError(f"{name} must be an object, got {shortened(got)}")
        for key in own:
            require(key in got or key.startswith("_"), f"{name} must have {key}", ", ".join(map(str, got)) or "nothing")
        for key in own.keys() & got.keys():
            check_structure(got[key], own[key], f"{key} in {name}")
    elif isinstance(own, list | tuple):
        fits = isinstance(got, list | tuple) and (not own or len(got) == len(own))
        fits = fits and all(mine is not None or its is None for mine, its in zip(own, got, strict=False))
        if not fits:
            raise ValueError(f"{name} must be a list like {shortened(own)}, got {shortened(got)}")
        for i, item in enumerate(own):
            check_structure(got[i], item, f"item {i} of {name}")
    elif own is None:
        if got is not None and not isinstance(got, Tensor):
            raise ValueError(f"{name} must be null or a tensor, got {shortened(got)}")
    else:
        typed(type(own), got, name)
