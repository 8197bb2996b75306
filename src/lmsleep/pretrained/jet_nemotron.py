"""Jet-Nemotron (arXiv 2508.15884): Qwen2.5's blocks, most of them with a Jet layer in place of attention.

The tensors and the keys of config.json are those of `jet-ai/Jet-Nemotron-2B` and `-4B` on the Hugging Face hub.
"""

from typing import Any

from lmsleep.model import HybridConfig
from lmsleep.model.jet import REDUCTION
from lmsleep.pretrained.backbone import Backbone, HFConfig, transformer

LETTERS = {"jet": "J", "attn": "A", "swa": "W"}


def hybrid_config(hf: HFConfig) -> HybridConfig:
    """The model of a config.json; a sleep repeats the middle half of the blocks (section 6.3 of the paper).

    Raises:
        ValueError: if a key is missing or says what our model cannot express.
    """
    hf.demand("use_mrope", False)
    layers, depth = hf.take("layer_types", list), hf.take("num_hidden_layers", int)
    if len(layers) != depth or not set(layers) <= set(LETTERS):
        raise ValueError(f"layer_types in {hf.source} must be {depth} of {', '.join(LETTERS)}, got {layers}")
    return HybridConfig(
        **transformer(hf),
        pattern="".join(LETTERS[layer] for layer in layers),
        attention_bias=True,
        loop=(depth // 4, depth - depth // 4),
        sliding_window=_section(hf, "swa").take("window_size", int) if "swa" in layers else None,
        **(_jet(_section(hf, "jet")) if "jet" in layers else {}),
    )


def _section(hf: HFConfig, layer: str) -> HFConfig:
    return hf.section("efficient_attention_config", layer)


def _jet(hf: HFConfig) -> dict[str, Any]:
    hf.demand("dconv_generator_reduction", REDUCTION)
    key_dim = hf.take("head_dim", int)
    return {
        "fast_heads": hf.take("num_heads", int),
        "fast_key_dim": key_dim,
        "fast_value_dim": int(key_dim * hf.take("expand_v", float)),
        "conv_size": hf.take("conv_size", int),
        "fast_norm_eps": hf.take("norm_eps", float),
    }


JET_NEMOTRON = Backbone(
    config=hybrid_config,
    parts={
        "mixer_norm": "input_layernorm",
        "mixer": "self_attn",
        "mlp_norm": "post_attention_layernorm",
        "mlp": "mlp",
    },
)
