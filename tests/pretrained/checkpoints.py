"""Checkpoints with random weights in the key names and with the config.json of the published models."""

import json

import torch
from safetensors.torch import save_file

JET_NEMOTRON_2B = {
    "architectures": ["JetNemotronForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "efficient_attention_config": {
        "jet": {
            "conv_size": 4,
            "dconv_generator_reduction": 8,
            "dconv_implementation": "triton",
            "expand_v": 2.6666666667,
            "head_dim": 96,
            "mode": "chunk",
            "norm_eps": "1e-5",
            "num_heads": 12,
        },
        "swa": {"window_size": 1152},
    },
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "initializer_range": 0.02,
    "intermediate_size": 8960,
    "layer_types": ["jet"] * 14 + ["attn"] + ["jet"] * 4 + ["attn", "swa", "swa"] + ["jet"] * 6,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "jet_nemotron",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_mrope": False,
    "vocab_size": 151936,
}

OURO_1_4B = {
    "architectures": ["OuroForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "early_exit_threshold": 1.0,
    "eos_token_id": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5632,
    "layer_types": ["full_attention"] * 24,
    "max_position_embeddings": 65536,
    "max_window_layers": 24,
    "model_type": "ouro",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "total_ut_steps": 4,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 49152,
}


def tiny_jet_nemotron():
    """Eight layers in the manner of the 2B model: two attention, one sliding attention, Jet elsewhere."""
    jet = JET_NEMOTRON_2B["efficient_attention_config"]["jet"] | {"num_heads": 2, "head_dim": 6}
    return JET_NEMOTRON_2B | {
        "efficient_attention_config": {"jet": jet, "swa": {"window_size": 5}},
        "layer_types": ["jet", "attn", "jet", "swa", "attn", "jet", "jet", "jet"],
        "num_hidden_layers": 8,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 19,
    }


def tiny_ouro():
    """Eight layers, so that two Jet layers are inserted."""
    return OURO_1_4B | {
        "head_dim": 8,
        "hidden_size": 32,
        "intermediate_size": 48,
        "layer_types": ["full_attention"] * 8,
        "num_attention_heads": 4,
        "num_hidden_layers": 8,
        "num_key_value_heads": 4,
        "vocab_size": 19,
    }


def jet_nemotron_shapes(config):
    D, M, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = D // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head
    jet = config["efficient_attention_config"]["jet"]
    H, keys = jet["num_heads"], jet["num_heads"] * jet["head_dim"]
    head_values = int(jet["head_dim"] * jet["expand_v"])
    values = H * head_values
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    attention = {"q_proj.weight": (D, D), "q_proj.bias": (D,), "o_proj.weight": (D, D)}
    attention |= {f"{n}_proj.weight": (kv, D) for n in "kv"} | {f"{n}_proj.bias": (kv,) for n in "kv"}
    mixer = {f"{n}_proj.weight": (keys, D) for n in "qk"} | {f"{n}_proj.weight": (values, D) for n in "vg"}
    mixer |= {f"{n}_proj.weight": (H, D) for n in "ab"} | {"A_log": (H,), "dt_bias": (H,)}
    mixer |= {"o_norm.weight": (head_values,), "o_proj.weight": (D, values)}
    generator = "dynamic_conv1d.kernel_generator"
    mixer |= {f"{generator}.w1.weight": (values // 8, D)}
    mixer |= {f"{generator}.w2.weight": (4 * values, values // 8), f"{generator}.w2.bias": (4 * values,)}
    for i, kind in enumerate(config["layer_types"]):
        p = f"model.layers.{i}"
        shapes |= {f"{p}.self_attn.{n}": s for n, s in (mixer if kind == "jet" else attention).items()}
        shapes |= mlp_shapes(p, D, M) | {
            f"{p}.{n}.weight": (D,) for n in ("input_layernorm", "post_attention_layernorm")
        }
    return shapes


def ouro_shapes(config):
    D, M, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    width = config["num_attention_heads"] * config["head_dim"]
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), "lm_head.weight": (V, D)}
    shapes |= {"model.early_exit_gate.weight": (1, D), "model.early_exit_gate.bias": (1,)}
    norms = ("input_layernorm", "input_layernorm_2", "post_attention_layernorm", "post_attention_layernorm_2")
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}"
        shapes |= {f"{p}.self_attn.{n}_proj.weight": (width, D) for n in "qkv"}
        shapes |= {f"{p}.self_attn.o_proj.weight": (D, width)} | mlp_shapes(p, D, M)
        shapes |= {f"{p}.{norm}.weight": (D,) for norm in norms}
    return shapes


def mlp_shapes(prefix, D, M):
    up = {f"{prefix}.mlp.{n}_proj.weight": (M, D) for n in ("gate", "up")}
    return up | {f"{prefix}.mlp.down_proj.weight": (D, M)}


def random_weights(shapes, seed=0):
    """Matrices with variance 1 / fan-in, scales around 1, slow decay: every part of the model and the past matter."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        is_scale = name.endswith("norm.weight") or "layernorm" in name
        weights[name] = 1 + 0.3 * value if is_scale else value * (shape[-1] ** -0.5 if len(shape) > 1 else 0.5)
        if name.endswith("A_log"):
            weights[name] -= 3
    return weights


def write(folder, config, weights, shards=1):
    """A folder as on the hub; with several shards also the index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder
    names, weight_map = sorted(weights), {}
    for n in range(shards):
        file = f"model-{n + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[n::shards]}
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def decoded(model, tokens):
    """Logits of a window (B, L) that is read with a cache: four tokens, then one at a time."""
    S, cache, said = model.init_fast_weights(len(tokens)), model.init_cache(), []
    with torch.no_grad():
        for part in tokens.split([4, *[1] * (tokens.shape[1] - 4)], dim=1):
            wake = model.wake(part, S, cache)
            S, cache = wake.S, wake.cache
            said.append(model.logits(wake.h))
    return torch.cat(said, dim=1)
