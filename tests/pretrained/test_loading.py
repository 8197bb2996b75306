import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from checkpoints import jet_nemotron_shapes, ouro_shapes, random_weights, tiny_jet_nemotron, tiny_ouro, write
from safetensors.torch import load_file, save_file

from lmsleep import HybridConfig, SleepModule
from lmsleep.pretrained import load_pretrained, load_weights, pretrained_config
from lmsleep.pretrained.backbone import HFConfig
from lmsleep.pretrained.jet_nemotron import hybrid_config
from lmsleep.tasks import Rule110


@pytest.fixture
def folder(tmp_path):
    config = tiny_jet_nemotron()
    return write(tmp_path / "jet", config, random_weights(jet_nemotron_shapes(config)))


def change(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def refused(folder, *words):
    """Loading fails with one sentence that has these words, and leaves the model as it was."""
    model = unloaded()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_weights(model, folder)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def unloaded():
    return replace(hybrid_config(HFConfig(tiny_jet_nemotron(), "config.json")), window_size=9).build()


def test_a_sharded_checkpoint_equals_a_whole_one(folder, tmp_path):
    sharded = write(tmp_path / "sharded", tiny_jet_nemotron(), load_file(folder / "model.safetensors"), shards=3)
    whole, parts = (load_pretrained(f, window_size=9).state_dict() for f in (folder, sharded))
    for name, value in whole.items():
        assert torch.equal(value, parts[name])


def test_half_precision_weights_become_float32(folder):
    change(folder, lambda w: w.update({name: value.bfloat16() for name, value in w.items()}))
    model = load_pretrained(folder, window_size=9)
    stored = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert model.norm.weight.dtype == torch.float32 and torch.equal(model.norm.weight, stored.float())


def test_missing_tensor(folder):
    change(folder, lambda w: w.pop("model.layers.1.self_attn.q_proj.bias"))
    refused(folder, "lacks", "model.layers.1.self_attn.q_proj.bias")


def test_unknown_tensor(folder):
    change(folder, lambda w: w.update({"model.layers.1.self_attn.q_norm.weight": torch.ones(6)}))
    refused(folder, "model.layers.1.self_attn.q_norm.weight", "does not know")


def test_misshaped_tensor(folder):
    change(folder, lambda w: w.update({"model.layers.0.self_attn.A_log": torch.ones(3)}))
    refused(folder, "model.layers.0.self_attn.A_log", "(2,)", "(3,)")


@pytest.mark.parametrize("value", [torch.full((24,), float("nan")), torch.ones(24, dtype=torch.int64)])
def test_unfit_values(folder, value):
    change(folder, lambda w: w.update({"model.norm.weight": value}))
    refused(folder, "model.norm.weight", "finite floating-point")


def test_truncated_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, "model.safetensors", "damaged")


def test_file_of_something_else(folder):
    (folder / "model.safetensors").write_bytes(b"not a tensor" * 10)
    refused(folder, "damaged or no safetensors")


def test_missing_shard_and_index_that_does_not_fit(tmp_path):
    config = tiny_jet_nemotron()
    sharded = write(tmp_path / "jet", config, random_weights(jet_nemotron_shapes(config)), shards=2)
    index = sharded / "model.safetensors.index.json"
    original = index.read_text()
    listed = json.loads(original)
    listed["weight_map"] = dict.fromkeys(listed["weight_map"], "model-00001-of-00002.safetensors")
    index.write_text(json.dumps(listed))
    refused(sharded, "lacks", "model.layers.", "more")
    index.write_text(original)
    (sharded / "model-00002-of-00002.safetensors").unlink()
    refused(sharded, "model-00002-of-00002.safetensors is missing")
    for content, words in (
        ("{", ["index.json is not valid JSON"]),
        ("[]", ["index.json must be a JSON object, got a list"]),
        ("{}", ["weight_map in", "got None"]),
        ('{"weight_map": {"a": 1}}', ["a in weight_map in", "must be a string, got 1"]),
        ('{"weight_map": {"a": "../outside.safetensors"}}', ["must name files beside it", "'../outside.safetensors'"]),
        ('{"weight_map": {"a": "/outside.safetensors"}}', ["must name files beside it", "'/outside.safetensors'"]),
        ('{"weight_map": {"a": ".."}}', [".. is missing"]),
    ):
        index.write_text(content)
        refused(sharded, *words)


def test_pickles_are_never_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin is a pickle")


def test_a_model_that_is_built_otherwise(folder):
    changed = json.loads((folder / "config.json").read_text()) | {"rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(changed))
    refused(folder, "rope_theta", "10000.0", "1000000.0")
    changed["layer_types"][0] = "attn"
    (folder / "config.json").write_text(json.dumps(changed))
    refused(folder, "pattern")


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("model_type", "mamba", "must be jet_nemotron or ouro or llama or .*, got 'mamba'"),
        ("hidden_act", "gelu", "silu"),
        ("rope_scaling", {"type": "yarn"}, "^type in rope_scaling of .* must be 'default' or 'llama3', got 'yarn'$"),
        ("num_hidden_layers", None, "num_hidden_layers"),
        ("num_hidden_layers", 10**18, "num_hidden_layers in .* must be at most 4096, got 1000000000000000000"),
        ("hidden_size", "24", "hidden_size in .* must be an integer, got '24'"),
        ("hidden_size", 24.0, "hidden_size in .* must be an integer, got 24.0"),
        ("tie_word_embeddings", "false", "tie_word_embeddings in .* must be true or false, got 'false'"),
        ("rms_norm_eps", "small", "rms_norm_eps in .* must be a finite number, got 'small'"),
        ("rms_norm_eps", "nan", "rms_norm_eps in .* must be a finite number, got nan"),
        ("layer_types", ["mamba"] * 8, "layer_types"),
        ("efficient_attention_config", None, "efficient_attention_config"),
    ],
)
def test_configurations_we_cannot_express(folder, key, value, word):
    (folder / "config.json").write_text(json.dumps(tiny_jet_nemotron() | {key: value}))
    with pytest.raises(ValueError, match=word):
        pretrained_config(folder)


def test_sources_that_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match="folder or a name"):
        load_pretrained(tmp_path / "nothing", window_size=9)
    with pytest.raises(ValueError, match=r"must hold config\.json"):
        load_pretrained(tmp_path, window_size=9)


def test_a_hub_name_is_downloaded_without_code_or_pickles(folder, monkeypatch):
    import huggingface_hub

    def snapshot_download(name, revision, allow_patterns):
        assert (name, revision) == ("owner/model", "abc")
        assert not any(p.endswith((".py", ".bin", "*")) for p in allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load_pretrained("owner/model@abc", window_size=9).config.d_model == 24

    def offline(*args, **kwargs):
        raise OSError("no network\nlong explanation")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"could not be had from the Hugging Face hub: no network$"):
        load_pretrained("owner/model", window_size=9)


def test_a_change_that_no_configuration_knows_is_one_sentence(folder):
    for load in (pretrained_config, partial(load_pretrained, window_size=9)):
        with pytest.raises(
            ValueError, match=r"^changes must be fields of HybridConfig, such as pattern, got 'patern'$"
        ):
            load(folder, patern="A")
    with pytest.raises(ValueError, match=r"^changes must be fields of HybridConfig, got 'zzz'$"):
        load_pretrained(folder, window_size=9, zzz=1)


def test_all_fields_that_differ_from_the_weights_are_named_at_once(folder):
    other = pretrained_config(folder, window_size=9, n_heads=2, conv_size=3)
    with pytest.raises(
        ValueError, match=r"^n_heads of the model must be 4 .*, got 2; others that do not fit: conv_size$"
    ):
        load_weights(other.build(), folder)


def test_a_module_starts_from_pretrained_weights(tmp_path, folder):
    task = Rule110(steps=2, width=6, n_states=2)
    module = SleepModule(task, init_from=str(folder))
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(module.model.embedding.weight, stored["model.embed_tokens.weight"])
    assert module.model.window_size == task.window_size and module.model.config.loop == (2, 6)
    config = tiny_ouro()
    ouro = write(tmp_path / "ouro", config, random_weights(ouro_shapes(config)))
    other_jets = HybridConfig(**(pretrained_config(ouro).to_dict() | {"pattern": "AAAAAAAAj", "fast_heads": 1}))
    assert len(SleepModule(task, other_jets, init_from=str(ouro)).model.blocks.state_shapes) == 1
    with pytest.raises(ValueError, match="n_heads of the model must be 4"):
        SleepModule(task, replace(pretrained_config(folder), n_heads=2), init_from=str(folder))
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="init_from"):
        SleepModule(task, init_from=str(folder))
