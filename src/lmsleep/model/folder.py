"""Saved models: a folder with model.safetensors, config.json and a model card; no code in it."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsleep.atomic import atomic_write, check_folder
from lmsleep.checks import check_file, read_object, require, typed
from lmsleep.hub import TOKENIZER, checkpoint_folder
from lmsleep.tensors import read_tensors, save_tensors, usable_device

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
MODEL_TYPE, VERSION = "lmsleep", 1
ENTRY = "lmsleep.model"  # in the metadata of the weights


def write_folder(
    folder: str | Path,
    model: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    text: str | None,
    trained: dict[str, Any],
    files: Mapping[str, str],
) -> None:
    """Writes the folder, see `HybridLM.save_pretrained`: no file takes its place before all are on the disk, as weights
    beside the configuration of another model would load. `model` are the fields of its configuration, `text` opens the
    model card."""
    folder = Path(folder)
    check_folder(folder)
    header = {"model_type": MODEL_TYPE, "version": VERSION, "model": model} | ({"trained": trained} if trained else {})
    try:
        config = json.dumps(header, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"trained must be made of what JSON can hold ({error}), got {trained!r}") from None
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(weight.numel() for weight in weights.values())
    texts = {**files, CONFIG: config, CARD: model_card(model, size, text, trained)}
    with ExitStack() as replaced:
        for name, content in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            replaced.enter_context(atomic_write(folder / name)).write_text(content, encoding="utf-8")
        save_tensors(folder / WEIGHTS, weights, ENTRY, {})


def check_no_model(folder: str | Path, name: str, remedy: str = "") -> None:
    """Raises ValueError, which says `name`, if `folder` is a file, or has a file of a saved model, which another one
    would replace; `remedy` ends the message."""
    check_folder(folder, name)
    there = [file for file in (WEIGHTS, CONFIG, CARD, *TOKENIZER) if (Path(folder) / file).exists()]
    if there:
        raise ValueError(f"{name} must be a folder without {', '.join(there)}, got {str(folder)!r}{remedy}")


def load_folder(config_type: Any, source: str | Path, device: torch.device | str | None) -> Any:
    """The model of a saved folder, built by `config_type`: see `HybridLM.from_pretrained`. Tensors that are not saved,
    tables and tied weights, are left to the caller."""
    device = usable_device(device)
    folder = checkpoint_folder(source, (WEIGHTS, CONFIG), "source")
    fields, trained = read_config(folder)
    config = typed(config_type, fields, f"model in {folder / CONFIG}")
    weights = read_weights(folder, device)
    if config.tie_embeddings and "embedding.weight" in weights:
        weights["head.weight"] = weights["embedding.weight"]
    try:
        model = config.build("meta")
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{folder / WEIGHTS} must hold the tensors of its {CONFIG}: {problem}") from None
    model.trained = trained
    return model


def read_config(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a saved model's configuration, and the metadata of its training. Raises ValueError if there is no
    such file, or it has another format."""
    path = Path(folder) / CONFIG
    header = read_object(path)
    for name, wanted in (("model_type", MODEL_TYPE), ("version", VERSION)):
        if (stored := header.get(name)) != wanted:
            raise ValueError(f"{name} in {path} must be {wanted!r}, as save_pretrained writes it, got {stored!r:.99}")
    model, trained = (typed(dict[str, Any], header.get(name, {}), f"{name} in {path}") for name in ("model", "trained"))
    return model, trained


def read_weights(folder: Path, device: torch.device | str) -> dict[str, Tensor]:
    """The tensors of a saved model. Raises ValueError if the file is absent or damaged, or holds anything but finite
    floating-point numbers."""
    path = folder / WEIGHTS
    check_file(path)
    weights, _ = read_tensors(path, device)
    for name, weight in weights.items():
        if not weight.is_floating_point() or weight.dtype.itemsize < 2:
            raise ValueError(f"{name} in {path} must hold floating-point numbers, got {weight.dtype}")
    check_finite(weights, str(path))
    return weights


def check_finite(weights: Any, where: str) -> None:
    """Raises ValueError unless `weights` maps names to finite tensors."""
    tensors = isinstance(weights, Mapping) and all(isinstance(x, Tensor) for x in weights.values())
    require(tensors, f"weights in {where} must be tensors by name", type(weights).__name__)
    for name, x in weights.items():
        require(not x.is_complex(), f"{name} in {where} must hold real numbers", x.dtype)
        if x.is_floating_point() and not all_finite(x):
            raise ValueError(f"{name} in {where} must hold finite numbers, got nan or inf")


def all_finite(x: Tensor) -> bool:
    """Whether a floating-point tensor has neither nan nor inf. The sum, which decides unless it overflows, is ten times
    faster than `isfinite().all()`."""
    total = x.sum(dtype=torch.promote_types(x.dtype, torch.float32))
    return bool(total.isfinite() or x.isfinite().all())


def model_card(model: Mapping[str, Any], size: int, text: str | None, trained: Mapping[str, Any]) -> str:
    """The model card in Markdown: the user's text, sizes, and how to load the model."""
    from huggingface_hub import ModelCardData  # slow to import

    front = ModelCardData(library_name="lmsleep", tags=["fast-weights", "hybrid", "arxiv:2605.26099"]).to_yaml()
    facts = {
        "blocks": f"`{model['pattern']}` (A attention, W sliding attention, G gated delta, M Mamba-2, J Jet)",
        "parameters": f"{size:,}",
        "width": model["d_model"],
        "vocabulary": model["vocab_size"],
        "window": f"{model['window_size']} tokens",
        "passes N in training": trained.get("on_overflow") or trained.get("n_passes", "not stated"),
        "eviction in training": trained.get("eviction", "not stated"),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    stated = ("eviction",) if trained.get("on_overflow") else ("n_passes", "eviction")
    options = "".join(f", {name}={trained[name]!r}" for name in stated if name in trained)
    return f"""---
{front}
---

# A language model that sleeps

{text or "A hybrid of attention and fast weights (arXiv 2605.26099)."}

| | |
|---|---|
{table}

```python
from lmsleep import HybridLM, Session

model = HybridLM.from_pretrained("path/to/this/folder")
session = Session(model{options})
logits = session.feed([[0, 1, 0]])
```
"""
