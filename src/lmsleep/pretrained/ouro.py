"""Ouro (arXiv 2510.25741): a looped transformer with sandwich norms and a norm after every pass; Jet layers without MLP
are inserted, so that there are fast weights (section 6.3 of the paper).

The tensors and the keys of config.json are those of `ByteDance/Ouro-1.4B` and `-2.6B` on the Hugging Face hub.
"""

from lmsleep.model import HybridConfig
from lmsleep.pretrained.backbone import PRE_NORM, Backbone, HFConfig, base_fields, insert_jets, pattern_of


def hybrid_config(hf: HFConfig) -> HybridConfig:
    """The model of a config.json, with inserted Jet layers; a sleep repeats all blocks. Raises ValueError if a key is
    missing or has a value that our model does not support."""
    hf.expect("use_sliding_window", False)
    pattern = pattern_of(hf, {"full_attention": "A"}, lambda layer: "full_attention")
    return HybridConfig(**insert_jets(base_fields(hf), pattern), sandwich_norm=True, norm_between_passes=True)


OURO = Backbone(
    config=hybrid_config,
    parts=PRE_NORM | {"mixer_post_norm": "input_layernorm_2", "mlp_post_norm": "post_attention_layernorm_2"},
    # The gate ends the loops of the pretrained model early. Here N is given and a prediction is one pass.
    unused=("model.early_exit_gate.*",),
)
