"""Checks of a checkpoint that a run goes on from, before any of it is restored."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from reprlib import repr as shortened
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lmsleep.checks import require, typed
from lmsleep.model import Lora
from lmsleep.model.folder import check_finite
from lmsleep.model.hybrid import INIT_FIELDS
from lmsleep.tasks.text_base import TextTask
from lmsleep.training.callbacks import Recipe, SleepCallback, find_callback, sleep_settings
from lmsleep.training.optimizer import MuonAdamW
from lmsleep.windows import SleepSettings

# Types of the keys of a checkpoint that are read, each if it is there.
KEYS: dict[str, Any] = dict.fromkeys(("state_dict", "model_config", "sleep", "settings"), dict[str, Any])
KEYS |= dict.fromkeys(("loops", "callbacks"), dict[str, dict[str, Any]])
KEYS |= dict.fromkeys(("optimizer_states", "lr_schedulers"), tuple[dict[str, Any], ...])
KEYS |= dict.fromkeys(("epoch", "global_step", "max_steps"), int)
KEYS |= {"lora": dict[str, Any] | None, "pytorch-lightning_version": str}
SEED = "seed_everything"
# Settings of the trainer that make other updates or rows. Its precision and its devices go together, and may change.
UPDATES = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "overfit_batches")
FILES = ("train", "val", "test", "held_out", "split_seed", "path", "tokenizer")  # where rows of a task come from


def check_content(content: Any, name: str) -> None:
    """Raises ValueError, which names the key, unless `content` is that of a checkpoint."""
    typed(dict[str, Any], content, name)
    for key in ("state_dict", "pytorch-lightning_version"):
        require(key in content, f"{name} must be of `lmsleep fit`, with {key}", ", ".join(content) or "nothing")
    for key in KEYS.keys() & content.keys():
        typed(KEYS[key], content[key], f"{key} in {name}")
    key, version = "pytorch-lightning_version", content["pytorch-lightning_version"]
    require(re.match(r"\d+\.\d+", version), f"{key} in {name} must be a version, as 2.6.0", version)


def check_resumed(trainer: L.Trainer, module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Raises ValueError if a checkpoint is not of the model of a `SleepModule`, has weights that are not finite, was
    trained with other sleep settings, unless `allow_other_n`, or training would go on with other `run_settings`. Warns
    where it is scored on another task."""
    before = checkpoint.get("settings", {})
    settings = {SEED: before.get(SEED)} | run_settings(trainer, module)  # in Python there is none to compare
    if trainer.state.fn == TrainerFn.FITTING:  # first: what is set here can make the model another, too
        check_steps(trainer.max_steps, checkpoint.get("global_step", 0))
        note = "; other settings are a new run from these weights: "
        for name, value in before.items():
            check_as_trained(name, value, settings.get(name), f"{note}lmsleep export, then --model.init_from")
    config, trained = module.model.config.to_dict(), checkpoint.get("model_config", {})
    free = frozenset() if trainer.state.fn == TrainerFn.FITTING else INIT_FIELDS  # config.yaml says how it began
    for name in sorted(trained.keys() - free):
        of_task = name in config and getattr(module.task, name, None) == config[name]
        check_as_trained(f"{'data.task' if of_task else 'model.model'}.{name}", trained[name], config.get(name))
    check_lora(checkpoint.get("lora"), module.model.lora)
    sleeper, sleeps = find_callback(trainer, SleepCallback), asdict(sleep_settings(trainer))
    if not (sleeper and sleeper.allow_other_n):
        for name, value in {**asdict(SleepSettings()), **checkpoint.get("sleep", {})}.items():
            check_as_trained(name, value, sleeps[name], "; --sleep.allow_other_n=true uses it all the same")
    check_finite(checkpoint.get("state_dict", {}), "the checkpoint")
    if trainer.state.fn != TrainerFn.FITTING:
        warn_of_other_task(before, settings, str(getattr(trainer.state.fn, "value", "")))


def warn_of_other_task(before: Mapping[str, Any], now: Mapping[str, Any], stage: str) -> None:
    """Warns where a `stage`, such as `test`, is of another task than the run was, by the `run_settings` of both."""
    names = [name for name in before if name.startswith("data.task") and name.rpartition(".")[2] not in FILES]
    other = [name for name in names if before[name] != now.get(name)]
    if other:
        trained, scored = (", ".join(f"{name}={of.get(name)}" for name in other) for of in (before, now))
        rank_zero_warn(f"trained on {trained}, {stage.removesuffix('e')}ed on {scored}")


def check_steps(wanted: int, done: int) -> None:
    """Raises ValueError if a run would end before the step at which a checkpoint is; -1 steps have no end."""
    steps = "steps (--trainer.max_steps, or those of --trainer.max_epochs)"
    require(wanted < 0 or wanted >= done, f"{steps} must be {done:,} or more, at which the checkpoint is", wanted)


def check_lora(trained: Mapping[str, Any] | None, lora: Lora | None) -> None:
    """Raises ValueError if a model has other adapters than it was trained with, or there were none."""
    before, now = trained or {}, asdict(lora) if lora else {}
    for name in before.keys() & now.keys() or ("rank",):
        check_as_trained(f"model.lora.{name}", before.get(name), now.get(name))


def run_settings(trainer: L.Trainer, module: Any) -> dict[str, Any]:
    """The settings of updates and rows by name, as JSON has them: with others, a resumed run would be another. None
    stands for what JSON cannot hold, such as a table in a task."""
    data, task = getattr(trainer, "datamodule", None), module.task
    settings = {"model.init_from": module.init_from}  # from which the model card says that it was tuned
    settings |= {f"model.optimizer.{name}": value for name, value in asdict(module.optimizer_config).items()}
    settings |= {f"data.{name}": getattr(data, name, None) for name in ("seed", "batch_size")}
    settings |= {f"trainer.{name}": getattr(trainer, name, None) for name in UPDATES}
    settings["trainer.callbacks"] = recipes_of(trainer)
    settings["data.task"] = type(task).__name__
    for field in fields(task) if is_dataclass(task) else ():
        settings[f"data.task.{field.name}"] = getattr(task, field.name)
    if isinstance(task, TextTask):  # with other files, rows that were trained on may be held out
        settings["data"] = str(task)
    if module.seed is not None:
        settings[SEED] = module.seed
    return {name: _as_json(value) for name, value in settings.items()}


def recipes_of(trainer: L.Trainer) -> str | None:
    """The names of the callbacks that change training batches; None: there are none."""
    callbacks: list[L.Callback] = getattr(trainer, "callbacks", [])
    return ", ".join(sorted(type(c).__name__ for c in callbacks if isinstance(c, Recipe))) or None


def _as_json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None


def check_as_trained(name: str, trained: Any, value: Any, note: str = "") -> None:
    """Raises ValueError if a run has another setting than a checkpoint was trained with; None is one left out."""
    if value != trained or isinstance(value, bool) != isinstance(trained, bool):  # a seed of false is none, and not 0
        allowed = "left out, without" if trained is None else f"{trained!r}, with"
        got = "nothing" if value is None else repr(value)
        raise ValueError(f"{name} must be {allowed} which the checkpoint was trained, got {got}{note}")


def check_states(trainer: L.Trainer, content: Mapping[str, Any]) -> None:
    """Raises ValueError, which names the place, unless what a trainer will restore has the structure of what it would
    save. Optimizers and schedulers are checked only once the strategy has set them up."""
    name = f"checkpoint {str(trainer.ckpt_path)!r}"
    fn, callbacks = getattr(trainer.state.fn, "value", ""), content.get("callbacks", {})
    callbacks_of_package = [c for c in trainer.callbacks if type(c).__module__.startswith("lmsleep.")]  # pyright: ignore
    expected: dict[str, Any] = {
        "loops": {f"{fn}_loop": getattr(trainer, f"{fn}_loop").state_dict()},
        "callbacks": {c.state_key: c.state_dict() for c in callbacks_of_package if c.state_key in callbacks},
    }
    module = trainer.lightning_module
    if module.strict_loading and "state_dict" in content:  # absent if the strategy loads it
        expected["state_dict"] = weights = module.state_dict()
        more = ", ".join(content["state_dict"].keys() - weights.keys())
        require(not more, f"state_dict in {name} must hold the weights of the model alone", more)
    if fn == "fit":
        expected |= {"optimizer_states": [{} for _ in trainer.optimizers]}
        expected |= {"lr_schedulers": [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]}
    check_structure(content, {key: value for key, value in expected.items() if fn == "fit" or key in content}, name)
    for i, optimizer in enumerate(expected.get("optimizer_states", []) and trainer.optimizers):
        place = f"item {i} of optimizer_states in {name}"
        check_optimizer(content["optimizer_states"][i], optimizer, module, place)


def check_optimizer(content: Mapping[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module, name: str) -> None:
    """Raises ValueError unless `content` fits the optimizer; a parameter has all of its state or none."""
    check_structure(content, optimizer.state_dict() | {"state": {}}, name)
    if not isinstance(optimizer, MuonAdamW):
        return
    parts: dict[Any, dict[str, Tensor]] = {}
    numbers = {id(p): i for i, p in enumerate(model.parameters())}
    for group, saved in zip(optimizer.param_groups, content["param_groups"], strict=True):
        params, ids = group["params"], saved["params"]
        # A sharded run numbers parameters in the order of the model, any other by their places in the groups.
        sharded = [numbers[id(p)] for p in params] if isinstance(params[0], DTensor) else ids
        where = f"in param_groups in {name} must be"
        require(ids == sharded, f"params {where} numbered as a sharded run does", shortened(ids))
        require(saved["muon"] == group["muon"], f"muon {where} {group['muon']}", saved["muon"])
        of_one = ("momentum",) if group["muon"] else ("exp_avg", "exp_avg_sq")
        step = {} if group["muon"] else {"step": torch.zeros(())}
        parts |= {i: dict.fromkeys(of_one, p) | step for i, p in zip(ids, params, strict=True)}
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    require(len(parts) == count, f"params in param_groups in {name} must be {count} numbers", len(parts))
    for p, state in content["state"].items():
        require(p in parts, f"state in {name} must be of {', '.join(map(str, parts))}", p)
        check_structure(state, parts[p], f"{p} in state in {name}")
        check_finite({key: state[key] for key in parts[p]}, f"{p} in state in {name}")


def check_structure(saved: Any, expected: Any, name: str) -> None:
    """Raises ValueError, which names the place, unless `saved` has the structure of `expected`: keys (except private
    ones, which differ between versions of a library), types of values, shapes of tensors. Where `expected` is empty,
    `saved` may hold more; where it is None, a tensor."""
    if isinstance(expected, Tensor):
        shape = tuple(saved.shape) if isinstance(saved, Tensor) else shortened(saved)
        require(shape == tuple(expected.shape), f"{name} must be a tensor of shape {tuple(expected.shape)}", shape)
    elif isinstance(expected, Mapping):
        if not isinstance(saved, Mapping):  # no `require`: to write out what is right, tensors too, takes long
            raise ValueError(f"{name} must be an object, got {shortened(saved)}")
        keys = ", ".join(map(str, saved)) or "nothing"
        for key in expected:
            require(key in saved or key.startswith("_"), f"{name} must have {key}", keys)
        for key in expected.keys() & saved.keys():
            check_structure(saved[key], expected[key], f"{key} in {name}")
    elif isinstance(expected, list | tuple):
        fits = isinstance(saved, list | tuple) and (not expected or len(saved) == len(expected))
        fits = fits and all(a is not None or b is None for a, b in zip(expected, saved, strict=False))
        if not fits:
            raise ValueError(f"{name} must be a list like {shortened(expected)}, got {shortened(saved)}")
        for i, item in enumerate(expected):
            check_structure(saved[i], item, f"item {i} of {name}")
    elif expected is None:
        if saved is not None and not isinstance(saved, Tensor):
            raise ValueError(f"{name} must be null or a tensor, got {shortened(saved)}")
    else:
        typed(type(expected), saved, name)
