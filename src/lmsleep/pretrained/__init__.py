"""Pretrained backbones in our own model: Jet-Nemotron and Ouro."""

from lmsleep.pretrained.loading import load_pretrained, load_tokenizer, load_weights, pretrained_config

__all__ = ["load_pretrained", "load_tokenizer", "load_weights", "pretrained_config"]
