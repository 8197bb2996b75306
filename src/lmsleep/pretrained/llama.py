"""Llama 3, Qwen2 (and 2.5) and Qwen3, with inserted Jet layers, so that there are fast weights.

The tensors and the keys of config.json are those that transformers' `LlamaForCausalLM` and its like write.
"""

from functools import partial
from typing import Any

from lmsleep.model import HybridConfig
from lmsleep.pretrained.backbone import PRE_NORM, Backbone, HFConfig, base_fields, insert_jets, middle_loop, pattern_of

SETTINGS: dict[str, dict[str, Any]] = {"llama": {}, "qwen2": {"attention_bias": True}, "qwen3": {"qk_norm": True}}


def hybrid_config(settings: dict[str, Any], hf: HFConfig) -> HybridConfig:
    """The model of a config.json; a sleep repeats the middle half of the blocks. Raises ValueError if a key is
    missing or has a value that our model does not support."""
    hf.expect("attention_bias", False)  # of Llama and Qwen3, where it would be on the output projection too
    hf.expect("mlp_bias", False)

    def default(layer: int) -> str:
        slides = hf.values.get("use_sliding_window") and layer >= hf.take("max_window_layers", int)
        return "sliding_attention" if slides else "full_attention"

    pattern = pattern_of(hf, {"full_attention": "A", "sliding_attention": "W"}, default)
    fields = insert_jets(base_fields(hf), pattern) | settings
    window = hf.count("sliding_window") if "W" in pattern else None
    return HybridConfig(**fields, loop=middle_loop(fields["pattern"]), sliding_window=window)


LLAMAS = {
    name: Backbone(partial(hybrid_config, settings), PRE_NORM, unused=("*.rotary_emb.inv_freq",))
    for name, settings in SETTINGS.items()
}
