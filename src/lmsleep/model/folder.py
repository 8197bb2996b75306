"""A model as a folder: model.safetensors, config.json and a model card. Nothing in it is code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsleep.atomic import atomic_write
from lmsleep.hub import read_object

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
MODEL_TYPE, VERSION = "lmsleep", 1


def write_folder(
    folder: str | Path,
    model: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    text: str | None,
    trained: dict[str, Any],
) -> None:
    """Writes the three files, each of them whole or not at all.

    Args:
        model: the fields of its configuration. text, trained: as `HybridLM.save_pretrained` takes them.

    Raises:
        ValueError: if `trained` does not fit into JSON, or a file is in the place of the folder.
    """
    folder = Path(folder)
    check_free(folder)
    header = {"model_type": MODEL_TYPE, "version": VERSION, "model": model} | ({"trained": trained} if trained else {})
    try:
        config = json.dumps(header, indent=2) + "\n"
    except TypeError as error:
        raise ValueError(f"trained must be made of what JSON can hold ({error}), got {trained!r}") from None
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / WEIGHTS) as path:
        save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, path)
    size = sum(weight.numel() for weight in weights.values())
    for name, content in ((CONFIG, config), (CARD, model_card(model, size, text, trained))):
        with atomic_write(folder / name) as path:
            path.write_text(content)


def check_free(folder: Path) -> None:
    """Raises ValueError if a file is in the place of the folder or of one above it."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"folder must be a new or an existing folder, got {str(folder)!r}: {there} is a file")


def read_config(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a saved model's configuration, tuples in place of JSON's lists, and what was said of its training.

    Raises:
        ValueError: if there is no such file, or it is not of this format.
    """
    path = Path(folder) / CONFIG
    header = read_object(path)
    if header.get("model_type") != MODEL_TYPE:
        raise ValueError(f"model_type in {path} must be {MODEL_TYPE!r}, as save_pretrained writes it")
    if header.get("version") != VERSION:
        raise ValueError(f"version in {path} must be {VERSION}, got {header.get('version')!r}")
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in header.get("model", {}).items()}
    return fields, header.get("trained", {})


def read_weights(folder: Path, device: torch.device | str | None) -> dict[str, Tensor]:
    """The tensors of a saved model.

    Raises:
        ValueError: if the file is absent or damaged, or holds other than floating-point numbers.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} must hold {WEIGHTS}, found none")
    try:
        # Mapped tensors lie at odd addresses, for which matrix products round otherwise; a copy is aligned.
        weights = {name: weight.clone() for name, weight in load_file(path, device=str(device or "cpu")).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise ValueError(f"{name} in {path} must hold floating-point numbers, got {weight.dtype}")
    return weights


def model_card(model: Mapping[str, Any], size: int, text: str | None, trained: Mapping[str, Any]) -> str:
    """The card in Markdown: what the user says of the model, its sizes, and how to use it."""
    from huggingface_hub import ModelCardData  # slow to import

    front = ModelCardData(library_name="lmsleep", tags=["fast-weights", "hybrid", "arxiv:2605.26099"]).to_yaml()
    facts = {
        "blocks": f"`{model['pattern']}` (A attention, W sliding attention, G gated delta, M Mamba-2, J Jet)",
        "parameters": f"{size:,}",
        "width": model["d_model"],
        "vocabulary": model["vocab_size"],
        "window": f"{model['window_size']} tokens",
        "passes N in training": trained.get("n_passes", "not stated"),
        "eviction in training": trained.get("eviction", "not stated"),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    options = "".join(f", {name}={trained[name]!r}" for name in ("n_passes", "eviction") if name in trained)
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
