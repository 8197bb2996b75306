"""Weights to start from: Llama, Qwen, Jet-Nemotron, Ouro, and our own models from Lightning checkpoints."""

from lmsleep.pretrained.export import from_lightning
from lmsleep.pretrained.loading import (
    load_pretrained,
    load_weights,
    pretrained_config,
    register_backbone,
)

__all__ = [
    "from_lightning",
    "load_pretrained",
    "load_weights",
    "pretrained_config",
    "register_backbone",
]
