"""Tiny checkpoints as transformers writes them, against transformers' own models with the same weights."""

import json

import pytest
import torch
import transformers
from checkpoints import OURO_1_4B, tiny_jet_nemotron, write
from safetensors.torch import load_file, save_file

from lmsleep import HybridLM, read_windows
from lmsleep.hf import CACHE
from lmsleep.pretrained import load_pretrained, pretrained_config
from lmsleep.pretrained.backbone import middle_loop

L = 16
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
SIZES = {
    "vocab_size": 23,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
HYBRID = SIZES | {
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25},
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 12,
    "rms_norm_eps": 1e-3,  # as small outputs as at 1e-6 would magnify rounding beyond the tolerance
    "linear_value_head_dim": 8,
}
SHIFTS = {"A_log": -2.0, "conv1d": 0.5}  # the past counts, and what is written is not so small that rounding is
SEES = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 24}


def llama():
    rope = {"rope_type": "llama3", "rope_theta": 100.0, **LLAMA_3}
    config = transformers.LlamaConfig(**SIZES, num_hidden_layers=5, head_dim=8, rope_parameters=rope)
    return transformers.LlamaForCausalLM(config)


def qwen2():
    rope = {"rope_type": "default", "rope_theta": 1e6}
    slides = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
    config = {"num_hidden_layers": 4, "rope_parameters": rope, "tie_word_embeddings": True}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES, **slides, **config))


def qwen3():
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**SIZES, num_hidden_layers=3, head_dim=10, rope_parameters=rope)
    )


def qwen3_5():
    config = transformers.Qwen3_5Config(text_config=HYBRID, vision_config=SEES, tie_word_embeddings=True)
    return transformers.Qwen3_5ForConditionalGeneration(config)


def qwen3_5_text():
    return transformers.Qwen3_5ForCausalLM(transformers.Qwen3_5TextConfig(**HYBRID))


def qwen3_next():
    return transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**HYBRID, num_experts=0))


MAKERS = (llama, qwen2, qwen3, qwen3_5, qwen3_5_text, qwen3_next)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """By name of the family: transformers' model, of which every weight is drawn, and the folder it saved."""
    made = {}
    for make in MAKERS:
        torch.manual_seed(0)
        model = make().eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.add_(0.2 * torch.randn_like(p) + SHIFTS.get(name.split(".")[-1 - name.endswith(".weight")], 0))
        folder = tmp_path_factory.mktemp(make.__name__)
        model.save_pretrained(folder)
        made[make.__name__] = model, folder
    return made


def tokens():
    return torch.randint(23, (2, L), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", [make.__name__ for make in MAKERS])
def test_logits_of_one_window_are_those_of_transformers(checkpoints, family):
    theirs, folder = checkpoints[family]
    assert json.loads((folder / "config.json").read_text())["model_type"] == family
    model = load_pretrained(folder, window_size=L)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens())[0], theirs(tokens()).logits, **TOLERANCE)


@pytest.mark.parametrize("family", ["qwen2", "qwen3_5", "llama"])
def test_a_checkpoint_in_bfloat16_and_many_files_is_read(checkpoints, family, tmp_path):
    """As the published ones are; those of Qwen here have tied embeddings."""
    kind = type(checkpoints[family][0])
    kind.from_pretrained(checkpoints[family][1], dtype=torch.bfloat16).save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    theirs = kind.from_pretrained(tmp_path, dtype=torch.float32).eval()
    model = load_pretrained(tmp_path, window_size=L)
    assert model.embedding.weight.dtype == torch.float32
    assert (model.head.weight is model.embedding.weight) == (family != "llama")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens())[0], theirs(tokens()).logits, **TOLERANCE)


def test_a_language_model_taken_out_of_one_that_sees_loads(checkpoints, tmp_path):
    """transformers saves it with the names that it had in there."""
    theirs = transformers.Qwen3_5ForCausalLM.from_pretrained(checkpoints["qwen3_5"][1]).eval()
    theirs.save_pretrained(tmp_path)
    assert "model.language_model.norm.weight" in load_file(tmp_path / "model.safetensors")
    model = load_pretrained(tmp_path, window_size=L)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens())[0], theirs(tokens()).logits, **TOLERANCE)


@pytest.mark.parametrize("family", [make.__name__ for make in MAKERS])
def test_cached_decoding_is_that_of_transformers(checkpoints, family):
    """A prompt of seven tokens, then one at a time."""
    theirs, folder = checkpoints[family]
    model = load_pretrained(folder, window_size=L)
    S, cache, past = model.init_fast_weights(2), model.init_cache(), None
    with torch.no_grad():
        for part in tokens().split([7, *[1] * (L - 7)], dim=1):
            wake = model.wake(part, S, cache)
            S, cache = wake.S, wake.cache
            out = theirs(part, use_cache=True, **{CACHE: past})
            past = out[CACHE]
            torch.testing.assert_close(model.logits(wake.h), out.logits, **TOLERANCE)


@pytest.mark.parametrize("family", [make.__name__ for make in MAKERS])
def test_a_loaded_model_sleeps_learns_and_is_saved(checkpoints, two_windows, family, tmp_path):
    model = load_pretrained(checkpoints[family][1], window_size=L)
    tokens, targets = two_windows(23, L)
    once, twice = (read_windows(model, tokens[:, :L], n_passes=n).fast_weights for n in (1, 2))
    assert twice.change(once)[-1] > 0.01
    read_windows(model, tokens, targets, n_passes=2).loss.backward()
    writers = [block.mixer for block in model.blocks.layers if block.mixer.state_shape]
    assert writers and all(0 < mixer.o_proj.weight.grad.norm() < 100 for mixer in writers)
    model.save_pretrained(tmp_path)
    again = HybridLM.from_pretrained(tmp_path)
    assert again.config == model.config and torch.equal(again(tokens[:, :L])[0], model(tokens[:, :L])[0])


def test_settings_of_each_family(checkpoints):
    configs = {name: pretrained_config(folder) for name, (_, folder) in checkpoints.items()}
    patterns = {name: config.pattern for name, config in configs.items()}
    assert patterns.pop("llama") == "AAAAjA" and patterns.pop("qwen2") == "AAWWj" and patterns.pop("qwen3") == "AAAj"
    assert set(patterns.values()) == {"GGGA"}
    assert configs["qwen3"].fast_shape == (3, 10, 20) and configs["qwen3_next"].fast_shape == (6, 12, 8)
    assert {name: config.loop for name, config in configs.items()} == {
        "llama": (1, 5),
        "qwen2": (1, 5),
        "qwen3": (1, 4),
        **dict.fromkeys(("qwen3_5", "qwen3_5_text", "qwen3_next"), (1, 3)),
    }


@pytest.mark.parametrize(
    ("pattern", "loop"),
    [
        ("GGGAGGGA", (2, 6)),
        ("AAAAj", (1, 5)),
        ("AAAjAAAjAA", (2, 8)),
        ("JAAAA", (0, 4)),
        ("JAAAAAAJ", (0, 6)),
        ("A", (0, 1)),
    ],
)
def test_the_middle_half_repeats_and_reaches_a_layer_with_fast_weights(pattern, loop):
    """Without one in the loop a sleep would write nothing that its next pass reads."""
    assert middle_loop(pattern) == loop


def test_another_pattern_has_its_own_middle(tmp_path):
    """Of five layers with one put in behind the last, where four and one behind each are the default."""
    llama().save_pretrained(tmp_path)
    assert load_pretrained(tmp_path, L).config.loop == (1, 5)
    for pattern, loop in (("AAAAAj", (1, 6)), ("jAjAjAjAjA", (2, 8))):
        assert load_pretrained(tmp_path, L, pattern=pattern).config.loop == loop
    assert load_pretrained(tmp_path, L, pattern="AAAAAj", loop=(0, 6)).config.loop == (0, 6)


def edited(folder, tmp_path, **changes):
    """A folder whose config.json differs; None takes a key out."""
    values = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return tmp_path


@pytest.mark.parametrize("kind", ["rope_type", "type"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen3_5_text", "qwen3_next"])
def test_positions_are_read_as_older_transformers_wrote_them(checkpoints, family, kind, tmp_path):
    folder = checkpoints[family][1]
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    beside = {n: rope.pop(n) for n in ("rope_theta", "partial_rotary_factor") if n in rope}
    scaling = rope | {kind: rope.pop("rope_type")} if len(rope) > 1 else None
    old = edited(folder, tmp_path, rope_parameters=None, rope_scaling=scaling, **beside)
    assert pretrained_config(old) == pretrained_config(folder)


@pytest.mark.parametrize("config", [OURO_1_4B, tiny_jet_nemotron()], ids=["Ouro", "Jet-Nemotron"])
def test_positions_are_read_as_newer_transformers_writes_them(config, tmp_path):
    theta = {"rope_parameters": {"rope_theta": config["rope_theta"], "rope_type": "default"}}
    rest = {name: value for name, value in config.items() if not name.startswith("rope")}
    old, new = (write(tmp_path / name, c, {}) for name, c in (("old", config), ("new", rest | theta)))
    assert pretrained_config(new) == pretrained_config(old)


def test_layer_types_that_are_not_listed_follow_from_the_interval(checkpoints, tmp_path):
    folder = checkpoints["qwen3_next"][1]
    old = edited(folder, tmp_path, layer_types=None, full_attention_interval=2)
    assert pretrained_config(old).pattern == "GAGA"
    slides = {"use_sliding_window": True, "sliding_window": 6}
    for first, pattern in ((1, "AWWj"), (0, "WWWj")):
        changes = slides | {"layer_types": None, "max_window_layers": first}
        assert pretrained_config(edited(checkpoints["qwen3"][1], tmp_path, **changes)).pattern == pattern


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("llama", {"attention_bias": True}, "attention_bias in .* must be False, got True"),
        ("llama", {"mlp_bias": True}, "mlp_bias in .* must be False, got True"),
        ("qwen3", {"attention_bias": True}, "attention_bias in .* must be False, got True"),
        ("qwen3_5_text", {"attention_bias": True}, "attention_bias in .* must be False, got True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act in .* must be 'silu', got 'gelu'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}},
            "rope_type in rope_parameters of .* must be 'default' or 'llama3', got 'yarn'",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}},
            "factor in rope_parameters of .* must be a finite number, got None",
        ),
        ("llama", {"rope_parameters": None}, "rope_theta in .* must be a finite number, got None"),
        (
            "qwen3",
            {"rope_parameters": {"rope_theta": 1.0, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor in rope_parameters of .* must be None or 1.0, got 0.5",
        ),
        ("llama", {"head_dim": 5}, "head_dim must be even for rotary positions, got 5"),
        ("llama", {"num_key_value_heads": 4}, "n_kv_heads must divide n_heads=6, got 4"),
        ("llama", {"tie_word_embeddings": None}, "tie_word_embeddings in .* must be true or false, got None"),
        ("qwen2", {"sliding_window": None}, "sliding_window in .* must be an integer, got None"),
        ("qwen3", {"num_attention_heads": 0}, "num_attention_heads in .* must be 1 or more, got 0"),
        ("qwen3", {"num_hidden_layers": 2.5}, "num_hidden_layers in .* must be an integer, got 2.5"),
        ("qwen3", {"layer_types": [["full_attention"]] * 3}, "layer_types in .* must be 3 of full_attention, .*"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types in .* must be 4 of full_attention, sliding_.*"),
        ("qwen3_next", {"layer_types": ["mamba"] * 4}, "layer_types in .* must be 4 of linear_attention, .*"),
        ("qwen3_next", {"num_experts": 8}, "num_experts in .* must be 0, got 8"),
        ("qwen3_5", {"text_config": None}, ".* in .* must be .*, got None"),
        ("qwen3_next", {"linear_num_key_heads": 4}, "fast_key_heads must divide fast_heads=6, got 4"),
    ],
)
def test_what_we_do_not_have_is_one_sentence(checkpoints, family, changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        pretrained_config(edited(checkpoints[family][1], tmp_path, **changes))


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "model.layers.1.self_attn.q_proj.weight"), ("qwen3_5_text", "model.layers.0.linear_attn.A_log")],
)
def test_every_tensor_is_needed_and_known(checkpoints, family, name, tmp_path):
    folder = checkpoints[family][1]
    weights = load_file(folder / "model.safetensors")
    edited(folder, tmp_path)
    for tensors, sentence in (
        ({n: w for n, w in weights.items() if n != name}, f"lacks {name}$"),
        (weights | {f"{name}_scale": torch.ones(1)}, f"has {name}_scale, which the model does not know$"),
    ):
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=sentence):
            load_pretrained(tmp_path, window_size=L)


@pytest.mark.parametrize(
    ("name", "ours"), [("linear_attn.in_proj_qkv.weight", "mixer.q_proj.weight"), ("mlp.up_proj.weight", "mlp.up_proj")]
)
def test_a_tensor_of_another_size_is_named(checkpoints, name, ours, tmp_path):
    folder = edited(checkpoints["qwen3_5_text"][1], tmp_path)
    weights = load_file(checkpoints["qwen3_5_text"][1] / "model.safetensors")
    full = f"model.layers.0.{name}"
    weights[full] = torch.cat([weights[full], weights[full][:6]])
    save_file(weights, folder / "model.safetensors")
    shape = str(tuple(weights[full].shape)).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"^{full} in .* must fit blocks.layers.0.{ours}.* got shape {shape}$"):
        load_pretrained(folder, window_size=L)


def test_parts_that_are_not_needed_may_be_there(checkpoints, tmp_path):
    """A vision tower is, in the checkpoint of Qwen3.5; so may be heads that predict further tokens, old tables."""
    for family, extra in (("qwen3_5_text", "mtp.fc.weight"), ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq")):
        folder = edited(checkpoints[family][1], tmp_path)
        weights = load_file(checkpoints[family][1] / "model.safetensors")
        save_file(weights | {extra: torch.ones(3)}, folder / "model.safetensors")
        load_pretrained(folder, window_size=L)
    assert any(name.startswith("model.visual.") for name in checkpoints["qwen3_5"][0].state_dict())
