"""Low-rank adapters: what trains, what is merged, against peft's own merge."""

import pytest
import torch

from lmsleep import HybridConfig, HybridLM
from lmsleep.model import Lora
from lmsleep.model.lora import TARGETS, merged
from lmsleep.training.start import add_lora

CONFIG = {"vocab_size": 11, "d_model": 16, "window_size": 6, "n_heads": 2, "mlp_dim": 24, "attention_bias": True}


def adapted(lora, pattern="AjGA"):
    """A model with adapters that are not zero."""
    model = HybridConfig(pattern=pattern, **CONFIG).build()
    add_lora(model, lora)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    return model


def test_a_model_starts_as_it_was():
    model = HybridConfig(pattern="AjGA", **CONFIG).build()
    tokens = torch.randint(0, 11, (2, 6))
    before = model(tokens)[0]
    add_lora(model, Lora(4))
    torch.testing.assert_close(model(tokens)[0], before, rtol=0, atol=0)


@pytest.mark.parametrize("lora", [Lora(4), Lora(2, alpha=3.0, targets=("q_proj", "o_proj"))])
def test_what_is_saved_is_what_peft_merges(lora, tmp_path):
    model = adapted(lora)
    from peft.tuners.lora import LoraLayer

    tokens = torch.randint(0, 11, (2, 6))
    said = model(tokens)[0]
    model.save_pretrained(tmp_path)
    read = HybridLM.from_pretrained(tmp_path)
    torch.testing.assert_close(read(tokens)[0], said)
    weights = read.state_dict()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    assert {name.rpartition(".")[2] for name in layers} == set(lora.targets)
    for name, layer in layers.items():
        before = layer.get_base_layer().weight.clone()
        layer.merge()
        assert not torch.equal(layer.get_base_layer().weight, before)
        torch.testing.assert_close(weights[f"{name}.weight"], layer.get_base_layer().weight)


def test_adapters_inserted_layers_and_gates_train_and_nothing_else():
    model = adapted(Lora(4))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    inserted = {name for name, _ in model.named_parameters() if name.startswith("blocks.layers.1.")}
    assert inserted <= trained and not any("lora" in name for name in inserted)
    gates = {
        f"blocks.layers.2.mixer.{n}" for n in ("a_proj.weight", "b_proj.weight", "conv_weight", "A_log", "dt_bias")
    }
    assert gates <= trained
    rest = {name for name in trained - inserted - gates if "lora_" not in name}
    assert rest == {"blocks.layers.2.mixer.norm.weight"}
    frozen = {name.rpartition(".base_layer.")[0] for name in {n for n, _ in model.named_parameters()} - trained}
    assert {name.rpartition(".")[2] for name in frozen - {""}} == set(TARGETS)
    loss = model(torch.randint(0, 11, (2, 6)))[0].logsumexp(-1).sum()
    loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_weights_without_adapters_are_left_alone():
    weights = {"a.weight": torch.ones(2, 3)}
    assert merged(weights, 2.0) == weights


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rank": 0}, r"lora\.rank must be 1 or more, got 0"),
        ({"rank": 1, "alpha": 0.0}, r"lora\.alpha must be finite and more than 0, or None, got 0\.0"),
        ({"rank": 1, "targets": ()}, r"lora\.targets must name a linear layer, got none"),
    ],
)
def test_what_is_out_of_range_is_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Lora(**given)


@pytest.mark.parametrize("targets", [("q_proj", "c_attn"), ("g_proj",)])
def test_a_target_that_the_model_lacks_is_one_sentence(targets):
    known = r"down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    got = ", ".join(targets)
    with pytest.raises(ValueError, match=rf"^lora\.targets must be linear layers of the model \({known}\), got {got}$"):
        adapted(Lora(1, targets=targets), "AjA")


def test_without_peft_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    model = HybridConfig(pattern="AG", **CONFIG).build()
    with pytest.raises(ValueError, match=r"^lora needs the package peft: pip install peft$"):
        add_lora(model, Lora(4))
