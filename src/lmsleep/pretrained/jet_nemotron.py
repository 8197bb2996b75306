"""Jet-Nemotron (arXiv 2508.15884): Qwen2.5 with Jet layers in place of most attention layers.

The tensors and the keys of config.json are those of `jet-ai/Jet-Nemotron-2B` and `-4B` on the Hugging Face hub.
"""

from typing import Any

from lmsleep.model import HybridConfig
from lmsleep.model.jet import REDUCTION
from lmsleep.pretrained.backbone import PRE_NORM, Backbone, HFConfig, base_fields, middle_loop, pattern_of


def hybrid_config(hf: HFConfig) -> HybridConfig:
    """The model of a config.json; a sleep repeats the middle half of the blocks (section 6.3 of the paper). Raises
    ValueError if a key is missing or has a value that our model does not support."""
    pattern = pattern_of(hf, {"jet": "J", "attn": "A", "swa": "W"})
    return HybridConfig(
        **base_fields(hf),
        pattern=pattern,
        attention_bias=True,
        loop=middle_loop(pattern),
        sliding_window=_section(hf, "swa").count("window_size") if "W" in pattern else None,
        **(_jet(_section(hf, "jet")) if "J" in pattern else {}),
    )


def _section(hf: HFConfig, layer: str) -> HFConfig:
    return hf.section("efficient_attention_config", layer)


def _jet(hf: HFConfig) -> dict[str, Any]:
    hf.expect("dconv_generator_reduction", REDUCTION)
    key_dim = hf.count("head_dim")
    return {
        "fast_heads": hf.count("num_heads"),
        "fast_key_dim": key_dim,
        "fast_value_dim": int(key_dim * hf.take("expand_v", float)),
        "conv_size": hf.count("conv_size"),
        "fast_norm_eps": hf.take("norm_eps", float),
    }


JET_NEMOTRON = Backbone(hybrid_config, PRE_NORM)
