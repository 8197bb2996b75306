"""Ouro (arXiv 2510.25741): a looped transformer with sandwich norms, whose final norm closes every pass; Jet layers
without MLP are inserted, so that there are fast weights to sleep on (section 6.3 of the paper).

The tensors and the keys of config.json are those of `ByteDance/Ouro-1.4B` and `-2.6B` on the Hugging Face hub.
"""

from lmsleep.model import HybridConfig
from lmsleep.pretrained.backbone import Backbone, HFConfig, transformer

BLOCKS_PER_INSERT = 4


def hybrid_config(hf: HFConfig) -> HybridConfig:
    """The model of a config.json with a Jet layer after every fourth block; a sleep repeats all blocks.

    A Jet layer has half as many heads as attention, of the same key width and twice the value width. At 1.4B that is
    six layers of 8 heads x 128 x 256, 8.1 % more parameters; Jet-Nemotron's own shape would exceed the 10 % that the
    paper states. Their output projections are zero, so that the model starts as Ouro.

    Raises:
        ValueError: if a key is missing or says what our model cannot express.
    """
    hf.demand("use_sliding_window", False)
    shared, depth = transformer(hf), hf.take("num_hidden_layers", int)
    hf.demand("layer_types", None, ["full_attention"] * depth)
    heads = shared["n_heads"]
    head_dim = shared["head_dim"] or shared["d_model"] // heads
    inserted = ["j" if block % BLOCKS_PER_INSERT == 0 else "" for block in range(1, depth + 1)]
    return HybridConfig(
        **shared | {"head_dim": head_dim},
        pattern="".join("A" + jet for jet in inserted),
        fast_heads=max(1, heads // 2),
        fast_key_dim=head_dim,
        fast_value_dim=2 * head_dim,
        fast_norm_eps=1e-5,
        sandwich_norm=True,
        norm_between_passes=True,
    )


OURO = Backbone(
    config=hybrid_config,
    parts={
        "mixer_norm": "input_layernorm",
        "mixer": "self_attn",
        "mixer_post_norm": "input_layernorm_2",
        "mlp_norm": "post_attention_layernorm",
        "mlp": "mlp",
        "mlp_post_norm": "post_attention_layernorm_2",
    },
    # The gate decides when pretraining's loops may end. Here N is given and a prediction is one pass.
    unused=frozenset({"model.early_exit_gate.weight", "model.early_exit_gate.bias"}),
)
