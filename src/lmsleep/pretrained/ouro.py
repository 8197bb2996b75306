"""Ouro (arXiv 2510.25741): a looped transformer with sandwich norms, whose final norm closes every pass; Jet layers
without MLP are inserted, so that there are fast weights to sleep on (section 6.3 of the paper).

The tensors and the keys of config.json are those of `ByteDance/Ouro-1.4B` and `-2.6B` on the Hugging Face hub.
"""

from lmsleep.model import HybridConfig
from lmsleep.pretrained.backbone import Backbone, HFConfig

BLOCKS_PER_INSERT = 4


def hybrid_config(hf: HFConfig) -> HybridConfig:
    """The model of a config.json with a Jet layer after every fourth block; a sleep repeats all blocks.

    A Jet layer has half as many heads as attention, of the same key width and twice the value width. At 1.4B that is
    six layers of 8 heads x 128 x 256, 8.1 % more parameters; Jet-Nemotron's own shape would exceed the 10 % that the
    paper states. Their output projections are zero, so that the model starts as Ouro.

    Raises:
        ValueError: if a key is missing or says what our model cannot express.
    """
    hf.demand("hidden_act", "silu")
    hf.demand("rope_scaling", None)
    hf.demand("use_sliding_window", False)
    hf.demand("attention_dropout", 0, 0.0)
    depth, heads = hf.take("num_hidden_layers", int), hf.take("num_attention_heads", int)
    hf.demand("layer_types", None, ["full_attention"] * depth)
    d_model = hf.take("hidden_size", int)
    head_dim = hf.take("head_dim", int) if "head_dim" in hf.values else d_model // heads
    inserted = ["j" if block % BLOCKS_PER_INSERT == 0 else "" for block in range(1, depth + 1)]
    return HybridConfig(
        vocab_size=hf.take("vocab_size", int),
        d_model=d_model,
        pattern="".join("A" + jet for jet in inserted),
        n_heads=heads,
        n_kv_heads=hf.take("num_key_value_heads", int),
        head_dim=head_dim,
        fast_heads=max(1, heads // 2),
        fast_key_dim=head_dim,
        fast_value_dim=2 * head_dim,
        fast_norm_eps=1e-5,
        mlp_dim=hf.take("intermediate_size", int),
        rope_theta=hf.take("rope_theta", float),
        norm_eps=hf.take("rms_norm_eps", float),
        sandwich_norm=True,
        norm_between_passes=True,
        tie_embeddings=hf.take("tie_word_embeddings", bool),
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
