"""A model as a folder: model.safetensors, config.json and a model card. Nothing in it is code."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsleep.atomic import atomic_write
from lmsleep.hub import checkpoint_folder, read_object
from lmsleep.model.config import HybridConfig

if TYPE_CHECKING:
    from lmsleep.model.hybrid import HybridLM

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
MODEL_TYPE, VERSION = "lmsleep", 1


def save_model(
    model: "HybridLM", folder: str | Path, card: str | None = None, trained: Mapping[str, Any] | None = None
) -> None:
    """Writes the three files; see `HybridLM.save_pretrained`."""
    folder = Path(folder)
    check_free(folder)
    header = {"model_type": MODEL_TYPE, "version": VERSION, "model": model.config.to_dict()}
    header |= {"trained": dict(trained)} if trained else {}
    try:
        config = json.dumps(header, indent=2) + "\n"
    except TypeError as error:
        raise ValueError(f"trained must be made of what JSON can hold ({error}), got {trained!r}") from None
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / WEIGHTS) as path:
        save_file({name: weight.detach().contiguous() for name, weight in _weights(model).items()}, path)
    for name, text in ((CONFIG, config), (CARD, model_card(model, card, trained or {}))):
        with atomic_write(folder / name) as path:
            path.write_text(text)


def check_free(folder: Path) -> None:
    """Raises ValueError if a file is in the place of the folder or of one above it."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"folder must be a new or an existing folder, got {str(folder)!r}: {there} is a file")


def load_model(
    source: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> "HybridLM":
    """Reads the files back; see `HybridLM.from_pretrained`."""
    folder = checkpoint_folder(source, (WEIGHTS, CONFIG), "source")
    config, _ = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} must hold {WEIGHTS}, found none")
    try:
        # Mapped tensors lie at odd addresses, for which matrix products round otherwise; a copy is aligned.
        tensors = {name: weight.clone() for name, weight in load_file(path, device=str(device or "cpu")).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    model = config.build("meta")
    _check(_weights(model), tensors, path)
    model.load_state_dict(tensors, strict=False, assign=True)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    return model.to(dtype=dtype).eval()


def read_config(folder: str | Path) -> tuple[HybridConfig, dict[str, Any]]:
    """The configuration of a saved model, and what was said of its training.

    Raises:
        ValueError: if there is none, or it is not of this format, or says what a `HybridConfig` does not know.
    """
    path = Path(folder) / CONFIG
    header = read_object(path)
    if header.get("model_type") != MODEL_TYPE:
        raise ValueError(f"model_type in {path} must be {MODEL_TYPE!r}, as save_pretrained writes it")
    if header.get("version") != VERSION:
        raise ValueError(f"version in {path} must be {VERSION}, got {header.get('version')!r}")
    values = header.get("model", {})
    unknown = sorted(values.keys() - {field.name for field in fields(HybridConfig)})
    if unknown:
        raise ValueError(f"model in {path} must hold fields of HybridConfig, got {', '.join(unknown)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return HybridConfig(**values), header.get("trained", {})


def model_card(model: "HybridLM", text: str | None, trained: Mapping[str, Any]) -> str:
    """The card in Markdown: what the user says of the model, its sizes, and how to use it."""
    from huggingface_hub import ModelCardData  # slow to import

    config = model.config
    front = ModelCardData(library_name="lmsleep", tags=["fast-weights", "hybrid", "arxiv:2605.26099"]).to_yaml()
    facts = {
        "blocks": f"`{config.pattern}` (A attention, W sliding attention, G gated delta, M Mamba-2, J Jet)",
        "parameters": f"{sum(weight.numel() for weight in _weights(model).values()):,}",
        "width": config.d_model,
        "vocabulary": config.vocab_size,
        "window": f"{config.window_size} tokens",
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


def _weights(model: "HybridLM") -> dict[str, Tensor]:
    """Every tensor once: a tied head is the embedding."""
    tied = {"head.weight"} if model.config.tie_embeddings else set()
    return {name: weight for name, weight in model.state_dict().items() if name not in tied}


def _check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    for problem, names in (("lacks", wanted.keys() - given.keys()), ("has unknown", given.keys() - wanted.keys())):
        if names:
            raise ValueError(
                f"{path} must hold the tensors of its {CONFIG}, but it {problem} {', '.join(sorted(names))}"
            )
    for name, weight in wanted.items():
        if given[name].shape != weight.shape:
            raise ValueError(f"{name} in {path} must have shape {tuple(weight.shape)}, got {tuple(given[name].shape)}")
        if not given[name].is_floating_point():
            raise ValueError(f"{name} in {path} must hold floating-point numbers, got {given[name].dtype}")
