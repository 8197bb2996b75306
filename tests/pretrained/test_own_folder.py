"""Starting from a model that we saved ourselves, with the same blocks or with fast-weight layers put in."""

import json

import pytest
import torch

from lmsleep import HybridConfig, HybridLM, Session, SleepModule, read_windows
from lmsleep.pretrained import load_pretrained, load_weights, pretrained_config
from lmsleep.tasks import Rule110

L = 9
TASK = Rule110(steps=1, width=L, n_states=2)
SIZES = {"vocab_size": 7, "d_model": 24, "n_heads": 2}
LOOPED = {"sandwich_norm": True, "norm_between_passes": True}


def written(folder, pattern="AAA", dtype=torch.float32, seed=5, **options):
    """A saved model in which no weight has the value that it starts with."""
    model = HybridConfig(pattern=pattern, window_size=L, **{**SIZES, **options}).build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    model.to(dtype).save_pretrained(folder, trained={"n_passes": 1})
    return model


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize(("pattern", "options"), [("AAA", LOOPED), ("AjA", LOOPED), ("AGM", {}), ("WgJ", {})])
def test_with_the_same_blocks_it_is_the_saved_model(tmp_path, pattern, options, tie):
    source = written(tmp_path, pattern, tie_embeddings=tie, sliding_window=4, **options)
    config = pretrained_config(tmp_path)
    assert config.window_size is None and config.pattern == pattern
    model = load_pretrained(tmp_path, window_size=4)
    for name, weight in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_a_session_has_the_N_of_the_saved_model_unless_layers_were_put_in(tmp_path):
    model = HybridConfig(pattern="AG", window_size=L, **SIZES).build()
    model.save_pretrained(tmp_path, trained={"n_passes": 4, "eviction": "sliding"})
    session = Session(load_pretrained(tmp_path, window_size=4))
    assert (session.n_passes, session.eviction) == (4, "sliding")
    assert Session(load_pretrained(tmp_path, window_size=4, pattern="AGj")).n_passes == 1


@pytest.mark.parametrize("pattern", ["AjAA", "jAAA", "AAAj", "AjgAmAj"])
@pytest.mark.parametrize("wake_passes", [1, 4])
def test_with_layers_put_in_it_says_what_the_saved_model_says(tmp_path, two_windows, pattern, wake_passes):
    """In one window, whatever the number of passes: they read nothing yet and give zero."""
    source = written(tmp_path, **LOOPED).double()
    module = SleepModule(
        TASK,
        HybridConfig(pattern=pattern, decay_rates=(0.02, 1.0), fast_heads=3, **(SIZES | LOOPED)),
        init_from=str(tmp_path),
    )
    tokens = two_windows(SIZES["vocab_size"], L)[0][:, :L]
    with torch.no_grad():
        got, want = (read_windows(m, tokens, wake_passes=wake_passes).logits for m in (module.model.double(), source))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    grown = [block for block, letter in zip(module.model.blocks.layers, pattern, strict=True) if letter.islower()]
    assert len(grown) == len(pattern) - 3
    for block in grown:
        assert not any(p.any() for n, p in block.mixer.named_parameters() if n in ("o_proj.weight", "out_proj.weight"))


def test_layers_that_were_put_in_before_are_taken_and_new_ones_are_not(tmp_path):
    source = written(tmp_path, "AjAA").blocks.layers
    model = HybridConfig(pattern="AjAjA", window_size=L, **SIZES).build()
    before = [{name: p.clone() for name, p in block.state_dict().items()} for block in model.blocks.layers]
    load_weights(model, tmp_path)
    wanted = [source[0].state_dict(), source[1].state_dict(), source[2].state_dict(), before[3], source[3].state_dict()]
    for block, weights in zip(model.blocks.layers, wanted, strict=True):
        assert all(torch.equal(p, weights[name]) for name, p in block.state_dict().items())


def test_half_precision_becomes_float32(tmp_path):
    source = written(tmp_path, dtype=torch.bfloat16)
    weight = load_pretrained(tmp_path, window_size=L).blocks.layers[1].mlp.down_proj.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, source.blocks.layers[1].mlp.down_proj.weight.float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "AGAA"}, r"^pattern of the model must have the blocks AAA of .*\(lower case\), got 'AGAA'$"),
        ({"pattern": "AjA"}, r"^pattern .* blocks AAA of .*, got 'AjA'$"),
        ({"pattern": "WAA", "sliding_window": 4}, r"^pattern .* blocks AAA of .*, got 'WAA'$"),
        ({"vocab_size": 8}, r"^vocab_size of the model must be 7 as in the lmsleep checkpoint .*, got 8$"),
        ({"d_model": 48}, r"^d_model of the model must be 24 as in the lmsleep checkpoint .*, got 48$"),
        (
            {"norm_between_passes": True},
            r"^norm_between_passes of the model must be False as in the lmsleep checkpoint .*, got True$",
        ),
        (
            {"rope_theta": 1e6},
            r"^rope_theta of the model must be 10000.0 as in the lmsleep checkpoint .*, got 1000000.0$",
        ),
    ],
)
def test_another_model_is_refused_and_left_as_it_was(tmp_path, changes, message):
    written(tmp_path)
    model = HybridConfig(**{**SIZES, "pattern": "AAA", "window_size": L, **changes}).build()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_a_folder_of_another_version_is_refused(tmp_path):
    written(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(ValueError, match=r"^version in .* must be 1, got 2$"):
        pretrained_config(tmp_path)


def test_what_was_taken_is_what_from_pretrained_reads(tmp_path):
    written(tmp_path, "AjA")
    ours, theirs = load_pretrained(tmp_path, window_size=L), HybridLM.from_pretrained(tmp_path)
    assert all(torch.equal(p, theirs.state_dict()[name]) for name, p in ours.state_dict().items())
