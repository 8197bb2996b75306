import json
from dataclasses import replace

import pytest
import torch
import yaml
from checkpoints import JET_NEMOTRON_2B, decoded, jet_nemotron_shapes, random_weights, tiny_jet_nemotron, write
from pretrained_reference import jet_nemotron

from lmsleep import HybridConfig, read_windows
from lmsleep.pretrained import load_pretrained, pretrained_config
from lmsleep.pretrained.backbone import HFConfig
from lmsleep.pretrained.jet_nemotron import JET_NEMOTRON

L = 9
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = tiny_jet_nemotron()
    weights = random_weights(jet_nemotron_shapes(config))
    folder = write(tmp_path_factory.mktemp("jet"), config, weights)
    return folder, config, {name: value.double() for name, value in weights.items()}


@pytest.mark.parametrize("n_passes", [1, 3])
def test_tiny_checkpoint_gives_the_logits_of_the_written_out_model(checkpoint, two_windows, n_passes):
    folder, config, weights = checkpoint
    model = load_pretrained(folder, window_size=L).double()
    tokens, targets = two_windows(config["vocab_size"], L)
    with torch.no_grad():
        out = read_windows(model, tokens, targets, n_passes)
    for row in range(len(tokens)):
        logits, S = jet_nemotron(weights, config, tokens[row].split(L), n_passes, model.config.loop)
        torch.testing.assert_close(out.scored_logits[row], logits, **TOLERANCE)
        for mine, reference in zip(out.fast_weights.states, S.values(), strict=True):
            torch.testing.assert_close(mine[row], reference, **TOLERANCE)


def test_cached_decoding_gives_the_logits_of_the_written_out_model(checkpoint, two_windows):
    folder, config, weights = checkpoint
    model = load_pretrained(folder, window_size=L).double()
    tokens = two_windows(config["vocab_size"], L)[0][:, :L]
    for row, said in zip(tokens, decoded(model, tokens), strict=True):
        torch.testing.assert_close(said, jet_nemotron(weights, config, [row], 1, model.config.loop)[0], **TOLERANCE)


def test_the_coda_reads_a_window_once_from_the_state_it_had_before(checkpoint, two_windows):
    folder, config, weights = checkpoint
    model = load_pretrained(folder, window_size=L).double()
    assert model.config.loop == (2, 6)
    tokens, targets = two_windows(config["vocab_size"], L, rows=1)
    with torch.no_grad():
        S = read_windows(model, tokens, targets, n_passes=3).fast_weights
    _, rewound = jet_nemotron(weights, config, tokens[0].split(L), 3, (2, 6))
    _, kept = jet_nemotron(weights, config, tokens[0].split(L), 3, (2, 6), rewind=False)
    for layer, mine in zip(rewound, S.states, strict=True):
        torch.testing.assert_close(mine[0], rewound[layer], **TOLERANCE)
        if layer >= 6:
            assert (mine[0] - kept[layer]).abs().max() > 0.01


def test_attention_blocks_equal_qwen2(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    qwen = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=23,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            rope_theta=1e6,
            tie_word_embeddings=True,
            use_sliding_window=True,
            sliding_window=5,
            max_window_layers=2,
            attn_implementation="eager",
        )
    ).eval()
    weights = {name: value + 0.2 * torch.randn_like(value) for name, value in qwen.state_dict().items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    qwen.load_state_dict(weights)
    config = tiny_jet_nemotron() | {
        "layer_types": ["attn", "attn", "swa", "swa"],
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "vocab_size": 23,
    }
    del weights["lm_head.weight"]
    model = load_pretrained(write(tmp_path / "qwen", config, weights), window_size=16)
    tokens = torch.randint(23, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0], qwen(tokens).logits, rtol=1e-4, atol=1e-4)


def test_the_preset_is_the_published_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(JET_NEMOTRON_2B))
    mapped = pretrained_config(tmp_path)
    with open("configs/model/jet_nemotron_2b.yaml") as file:
        preset = yaml.safe_load(file)["model"]
    assert preset["init_from"] == "jet-ai/Jet-Nemotron-2B"
    fields = preset["model"] | {"loop": tuple(preset["model"]["loop"])}
    assert HybridConfig(**fields) == mapped
    assert mapped.pattern == "JJJJJJJJJJJJJJAJJJJAWWJJJJJJ" and mapped.loop == (7, 21)
    assert mapped.fast_shape == (12, 96, 256) and mapped.sliding_window == 1152


def test_the_2b_model_has_exactly_the_published_tensors():
    config = replace(JET_NEMOTRON.config(HFConfig(JET_NEMOTRON_2B, "config.json")), window_size=2000)
    parameters = dict(config.build("meta").named_parameters())
    origins = JET_NEMOTRON.origins(config, parameters, "model.", JET_NEMOTRON.stored(config))
    shapes = {origins[name].name: tuple(p.shape) for name, p in parameters.items()}
    assert shapes == jet_nemotron_shapes(JET_NEMOTRON_2B)
    states = config.build("meta").blocks.state_shapes
    assert sum(h * k * v for h, k, v in states) == 24 * 12 * 96 * 256
