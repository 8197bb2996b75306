"""Qwen3.5 and Qwen3-Next without experts: gated delta layers, with gated attention after every three of them.

The tensors and the keys of config.json are those that transformers' `Qwen3_5ForConditionalGeneration`, of which the
language model is read, `Qwen3_5ForCausalLM` and `Qwen3NextForCausalLM` write.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lmsleep.model import HybridConfig
from lmsleep.pretrained.backbone import Backbone, HFConfig, Origin, base_fields, middle_loop, pattern_of


def hybrid_config(hf: HFConfig) -> HybridConfig:
    """The model of a config.json; a sleep repeats the middle half of the blocks (section 6.3 of the paper). Raises
    ValueError if a key is missing or has a value that our model does not support, such as experts."""
    if "text_config" in hf.values:  # beside the part that sees; that embeddings are tied is said outside
        text = hf.section("text_config")
        outside = {name: value for name, value in hf.values.items() if name == "tie_word_embeddings"}
        hf = HFConfig({**text.values, **outside}, text.source)
    hf.expect("attention_bias", False)
    hf.expect("attn_output_gate", True)

    def default(layer: int) -> str:
        return "linear_attention" if (layer + 1) % hf.count("full_attention_interval") else "full_attention"

    pattern = pattern_of(hf, {"linear_attention": "G", "full_attention": "A"}, default)
    if hf.values.get("mlp_only_layers") != [*range(len(pattern))]:
        hf.expect("num_experts", 0)
    return HybridConfig(
        **base_fields(hf, rotary_share=0.25),
        pattern=pattern,
        loop=middle_loop(pattern),
        attention_gate=True,
        qk_norm=True,
        fast_heads=hf.count("linear_num_value_heads"),
        fast_key_heads=hf.count("linear_num_key_heads"),
        fast_key_dim=hf.count("linear_key_head_dim"),
        fast_value_dim=hf.count("linear_value_head_dim"),
        conv_size=hf.count("linear_conv_kernel_dim"),
    )


def _norm_scale(weight: Tensor, config: HybridConfig) -> Tensor:
    """Their norms store the scale minus 1."""
    return 1 + weight


def _reorder_rotary(rows: Tensor, config: HybridConfig) -> Tensor:
    """Reorders the K channels of each head: they rotate channel j with j + R / 2 among the first R, we j with j + K /
    2; the order of the others is free."""
    K, R = config.attention_head_dim, config.rotary_dim or config.attention_head_dim
    a, b, c, d = rows.unflatten(0, (-1, K)).split([R // 2, R // 2, (K - R) // 2, (K - R) // 2], dim=1)
    return torch.cat([a, c, b, d], dim=1).flatten(0, 1)


def _query_or_gate(part: int) -> Callable[[Tensor, HybridConfig], Tensor]:
    """The query rows (part 0) or gate rows (part 1) of each head."""
    return lambda rows, c: rows.unflatten(0, (-1, 2, c.attention_head_dim))[:, part].flatten(0, 1)


def _packed_rows(which: str, of: str, grouped: bool) -> Callable[[Tensor, HybridConfig], Tensor]:
    """The rows of projection `which` among the concatenated ones `of`, `grouped` by key head or not."""

    def part_of(rows: Tensor, c: HybridConfig) -> Tensor:
        (H, K, V), G = c.fast_shape, c.fast_key_heads or c.fast_shape[0]
        R, groups = H // G, G if grouped else 1
        sizes = {"q": K, "k": K, "v": R * V, "z": R * V, "b": R, "a": R}
        parts = rows.unflatten(0, (groups, -1)).split([G // groups * sizes[name] for name in of], dim=1)
        return parts[of.index(which)].flatten(0, 1)

    return part_of


def _parts(gated_delta: dict[str, str | Origin]) -> dict[str, str | Origin]:
    """The names of all parts, given those of the gated delta projections."""
    return {
        "norm": Origin("norm", _norm_scale),
        "mixer_norm": Origin("input_layernorm", _norm_scale),
        "mlp_norm": Origin("post_attention_layernorm", _norm_scale),
        "mlp": "mlp",
        "A": "self_attn",
        "A.q_proj": Origin("self_attn.q_proj", lambda rows, c: _reorder_rotary(_query_or_gate(0)(rows, c), c)),
        "A.g_proj": Origin("self_attn.q_proj", _query_or_gate(1)),
        "A.k_proj": Origin("self_attn.k_proj", _reorder_rotary),
        "A.q_norm": Origin("self_attn.q_norm", lambda weight, c: _reorder_rotary(1 + weight, c)),
        "A.k_norm": Origin("self_attn.k_norm", lambda weight, c: _reorder_rotary(1 + weight, c)),
        "G": "linear_attn",
        "G.conv_weight": Origin("linear_attn.conv1d.weight", lambda taps, c: taps.squeeze(1)),
        "G.o_proj": "linear_attn.out_proj",
        **gated_delta,
    }


def _projections(of: str, grouped: bool) -> dict[str, str | Origin]:
    """Our gated delta projections that are parts of one projection of the checkpoint."""
    names = {letter: "g" if letter == "z" else letter for letter in of}
    return {
        f"G.{part}_proj": Origin(f"linear_attn.in_proj_{of}", _packed_rows(letter, of, grouped))
        for letter, part in names.items()
    }


_QWEN3_5 = _parts(
    {f"G.{part}_proj": f"linear_attn.in_proj_{packed}" for part, packed in ("gz", "aa", "bb")}
    | _projections("qkv", grouped=False)
)
_QWEN3_NEXT = _parts(_projections("qkvz", grouped=True) | _projections("ba", grouped=True))
QWENS = {
    **dict.fromkeys(("qwen3_5", "qwen3_5_text"), Backbone(hybrid_config, _QWEN3_5, ("mtp.*", "model.visual.*"))),
    "qwen3_next": Backbone(hybrid_config, _QWEN3_NEXT, ("mtp.*",)),
}
