import json
from dataclasses import replace

import pytest
import torch
import yaml
from checkpoints import OURO_1_4B, decoded, ouro_shapes, random_weights, tiny_ouro, write
from pretrained_reference import ouro, ouro_loops

from lmsleep import HybridConfig, read_windows
from lmsleep.pretrained import load_pretrained, pretrained_config
from lmsleep.pretrained.backbone import HFConfig
from lmsleep.pretrained.ouro import OURO
from lmsleep.sleep import sleep

L = 9
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = tiny_ouro()
    weights = random_weights(ouro_shapes(config))
    folder = write(tmp_path_factory.mktemp("ouro"), config, weights, shards=3)
    return folder, config, {name: value.double() for name, value in weights.items()}


@pytest.mark.parametrize("n_passes", [1, 4])
def test_the_start_is_ouro_with_as_many_loops(checkpoint, two_windows, n_passes):
    """With the inserted layers at zero, N passes over a window are Ouro's own N loops."""
    folder, config, weights = checkpoint
    model = load_pretrained(folder, window_size=L).double()
    tokens = two_windows(config["vocab_size"], L)[0][:, :L]
    with torch.no_grad():
        h, S = model.blocks(model.embed(tokens), model.init_fast_weights(len(tokens)))
        h, S = sleep(model.blocks, h, S, n_passes)
        logits = model.logits(h)
    for row in range(len(tokens)):
        torch.testing.assert_close(logits[row], ouro_loops(weights, config, tokens[row], n_passes), **TOLERANCE)


def test_cached_decoding_gives_the_logits_of_the_written_out_model(checkpoint, two_windows):
    folder, config, weights = checkpoint
    model = load_pretrained(folder, window_size=L).double()
    tokens = two_windows(config["vocab_size"], L)[0][:, :L]
    for row, said in zip(tokens, decoded(model, tokens), strict=True):
        torch.testing.assert_close(said, ouro_loops(weights, config, row, 1), **TOLERANCE)


@pytest.mark.parametrize("n_passes", [1, 3])
def test_with_inserted_jet_layers_it_equals_the_written_out_model(checkpoint, two_windows, n_passes):
    folder, config, weights = checkpoint
    model = load_pretrained(folder, window_size=L, zero_init=False).double()
    inserted = {3: model.blocks.layers[4], 7: model.blocks.layers[9]}
    for block in inserted.values():
        torch.nn.init.normal_(block.mixer.dynamic_conv1d.kernel_generator.w2.weight, std=0.1)
        torch.nn.init.constant_(block.mixer.A_log, -2.0)
    named = {
        layer: {"norm.weight": block.mixer_norm.weight} | {f"mixer.{n}": p for n, p in block.mixer.named_parameters()}
        for layer, block in inserted.items()
    }
    tokens, targets = two_windows(config["vocab_size"], L)
    with torch.no_grad():
        out = read_windows(model, tokens, targets, n_passes)
        for row in range(len(tokens)):
            logits, S = ouro(weights, config, tokens[row].split(L), n_passes, named, model.config.fast_shape)
            torch.testing.assert_close(out.scored_logits[row], logits, **TOLERANCE)
            for mine, reference in zip(out.fast_weights.states, S.values(), strict=True):
                torch.testing.assert_close(mine[row], reference, **TOLERANCE)
        without, _ = ouro(weights, config, tokens[0].split(L), n_passes)
    assert (out.scored_logits[0] - without).abs().max() > 0.01, "the inserted layers do nothing"


def test_the_preset_is_the_published_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OURO_1_4B))
    mapped = pretrained_config(tmp_path)
    with open("configs/model/ouro_1_4b.yaml") as file:
        preset = yaml.safe_load(file)["model"]
    assert preset["init_from"] == "ByteDance/Ouro-1.4B"
    assert HybridConfig(**preset["model"]) == mapped
    assert mapped.pattern == "AAAAj" * 6 and mapped.fast_shape == (8, 128, 256)


def test_the_1_4b_model_has_the_published_tensors_and_less_than_a_tenth_more():
    config = replace(OURO.config(HFConfig(OURO_1_4B, "config.json")), window_size=2000)
    model = config.build("meta")
    parameters = dict(model.named_parameters())
    origins = OURO.origins(config, parameters, "model.", OURO.stored(config))
    shapes = {origins[name].name: tuple(p.shape) for name, p in parameters.items() if name in origins}
    published = ouro_shapes(OURO_1_4B)
    assert shapes == {name: shape for name, shape in published.items() if "early_exit_gate" not in name}
    total = sum(p.numel() for p in parameters.values())
    original = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert original // 10**6 == 1434
    assert 1.07 < total / original < 1.10
    assert sum(h * k * v for h, k, v in model.blocks.state_shapes) == 6 * 8 * 128 * 256


def test_inserted_layers_start_at_zero_output_and_learn(checkpoint, two_windows):
    model = load_pretrained(checkpoint[0], window_size=L)
    tokens, targets = two_windows(model.config.vocab_size, L)
    read_windows(model, tokens, targets, n_passes=2).loss.backward()
    for block in (model.blocks.layers[4], model.blocks.layers[9]):
        assert not block.mixer.o_proj.weight.any()
        grad = block.mixer.o_proj.weight.grad
        assert torch.isfinite(grad).all() and 0 < grad.norm() < 10
