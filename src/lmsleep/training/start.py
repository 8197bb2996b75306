"""What a run may start from: the tokenizer of pretrained weights, and adapters beside them."""

import warnings
from typing import Any

from torch import nn

from lmsleep.hub import checkpoint_folder, open_tokenizer, read_tokenizer
from lmsleep.model import HybridLM, Lora
from lmsleep.model.lora import TARGETS
from lmsleep.pretrained.loading import FILES
from lmsleep.tasks.text_base import TextTask


def check_tokenizer(task: TextTask, init_from: str) -> None:
    """Warns if the tokenizer of the task is not that of the model."""
    path = checkpoint_folder(init_from, FILES, "init_from") / "tokenizer.json"
    tokenizer = read_tokenizer(path) if path.is_file() else None
    if tokenizer is not None and open_tokenizer(task.tokenizer).to_str() != tokenizer.to_str():
        warnings.warn(
            f"tokenizer {task.tokenizer} ({task.vocab_size} tokens) is another than the model's own, {path} "
            f"({tokenizer.get_vocab_size()} tokens): the model knows the words by other ids",
            stacklevel=2,
        )


def add_lora(model: HybridLM, lora: Lora) -> None:
    """Puts adapters into a model, in place, and freezes what does not train. Raises ValueError if peft is not
    installed, or a target is no linear layer of the model."""
    try:
        from peft import LoraConfig, inject_adapter_in_model  # pyright: ignore  # slow to import
    except ImportError:
        raise ValueError("lora needs the package peft: pip install peft") from None
    layers = model.blocks.layers
    inserted = {i for i in model.blocks.state_index if not model.config.layers()[i][1]}
    targets = {
        f"blocks.layers.{i}.{name}": name.rpartition(".")[2]
        for i, block in enumerate(layers)
        if i not in inserted
        for name, part in block.named_modules()
        if isinstance(part, nn.Linear)
    }
    names = [name for name, target in targets.items() if target in lora.targets]
    if not names or set(lora.targets) - set(targets.values()) - set(TARGETS):  # few models have all default targets
        known = ", ".join(sorted(set(targets.values())))
        raise ValueError(f"lora.targets must be linear layers of the model ({known}), got {', '.join(lora.targets)}")
    whole = [layers[i].get_submodule("" if i in inserted else "mixer") for i in model.blocks.state_index]
    trained = [p for part in whole for p in part.parameters()]
    adapted = {id(model.get_submodule(name).weight) for name in names}
    alpha: Any = lora.scale * lora.rank  # annotated as int, but any number works
    inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=names), model)
    for p in trained:
        p.requires_grad_(id(p) not in adapted)
    model.lora = lora
