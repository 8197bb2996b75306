"""A model written to a folder and read back (in a fresh process: see runtime/test_saved.py), and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.disks import full_disk

from lmsleep import HybridConfig, HybridLM, read_windows
from lmsleep.model.folder import all_finite, read_config

SHAPES = [
    {},
    {"pattern": "AM", "delta": True},
    {"pattern": "AJg", "tie_embeddings": True, "attention_bias": True},
    {"pattern": "AGAG", "loop": (1, 3), "decay_rates": (0.1, 1.0)},
]


@pytest.mark.parametrize("options", SHAPES)
def test_reads_back_the_same_model(build, draw_tokens, tmp_path, options):
    model, tokens = build(**options), draw_tokens(2, 15)
    model.save_pretrained(tmp_path / "model")
    again = HybridLM.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    assert not again.training
    assert torch.equal(read_windows(again, tokens, n_passes=2).logits, read_windows(model, tokens, n_passes=2).logits)
    assert (again.head.weight is again.embedding.weight) == model.config.tie_embeddings
    assert all(weight.requires_grad for weight in again.parameters())


def test_bfloat16_goes_through(build, tmp_path):
    model = build(dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert HybridLM.from_pretrained(tmp_path).embedding.weight.dtype == torch.bfloat16
    wide = HybridLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(wide.head.weight, model.head.weight.float())


def test_the_card_says_what_the_model_is(build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path, card="Trained on nothing.", trained={"n_passes": 4, "eviction": "hard"})
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: lmsleep\n")
    for part in (
        "Trained on nothing.",
        f"{model.config.num_params():,}",
        "Session(model, n_passes=4, eviction='hard')",
    ):
        assert part in card
    assert json.loads((tmp_path / "config.json").read_text())["trained"] == {"n_passes": 4, "eviction": "hard"}
    model.save_pretrained(tmp_path, trained={"n_passes": 1, "eviction": "hard", "on_overflow": "mine.Sleep"})
    assert "Session(model, eviction='hard')" in (tmp_path / "README.md").read_text()  # which warns of it


def test_a_loaded_model_is_saved_with_the_metadata_of_its_training_unless_others_are_given(build, tmp_path):
    trained = {"n_passes": 4, "eviction": "sliding", "steps": 9}
    build().save_pretrained(tmp_path / "model", trained=trained)
    HybridLM.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    assert read_config(tmp_path / "again")[1] == trained
    HybridLM.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "other", trained={"n_passes": 2})
    assert read_config(tmp_path / "other")[1] == {"n_passes": 2}
    HybridLM.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "none", trained={})
    assert read_config(tmp_path / "none")[1] == {}


def change_weights(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def without(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("norm.weight"), r"must hold the tensors of its config.json: .*Missing key.*\"norm.weight\""),
        (
            lambda tensors: tensors | {"extra": torch.zeros(1)},
            r"must hold the tensors of its config.json: .*Unexpected key.*\"extra\"",
        ),
        (
            lambda tensors: tensors | {"norm.weight": torch.zeros(3)},
            r"must hold the tensors of its config.json: .*size mismatch for norm.weight: .*\[3\].*\[16\]",
        ),
        (
            lambda tensors: tensors | {"norm.weight": torch.zeros(16).int()},
            "must hold floating-point numbers, got torch.int32",
        ),
        (
            lambda tensors: tensors | {"norm.weight": torch.zeros(16).to(torch.float8_e5m2)},
            "must hold floating-point numbers, got torch.float8_e5m2",
        ),
        *(
            (
                lambda tensors, value=value: tensors | {"norm.weight": torch.full((16,), value)},
                "norm.weight in .* must hold finite numbers",
            )
            for value in (float("nan"), float("inf"))
        ),
    ],
)
def test_other_tensors_are_refused(build, tmp_path, change, message):
    build().save_pretrained(tmp_path)
    change_weights(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        HybridLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "must be a JSON object, got a list"),
        ('{"model_type": "llama"}', "model_type in .* must be 'lmsleep'"),
        ('{"model_type": "lmsleep", "version": 9}', "version in .* must be 1, .*, got 9"),
        (
            '{"model_type": "lmsleep", "version": 1, "model": {"width": 3}}',
            "must hold the fields of .*HybridConfig: .*unexpected keyword argument 'width'",
        ),
        *(
            (f'{{"model_type": "lmsleep", "version": 1, "model": {model}}}', message)
            for model, message in (
                ('{"d_model": 0}', "d_model must be 1 or more, got 0"),
                ('{"d_model": "16"}', "^d_model in model in .*config.json must be an integer, got '16'$"),
                ('{"d_model": 16.0}', "^d_model in model in .*config.json must be an integer, got 16.0$"),
                ('{"d_model": 1e400}', "d_model in model in .* must be an integer, got inf"),
                ('{"norm_eps": NaN}', "norm_eps in model in .* must be a finite number, got nan"),
                ('{"delta": "yes"}', "delta in model in .* must be true or false, got 'yes'"),
                ('{"pattern": ["A"]}', r"pattern in model in .* must be a string, got \['A'\]"),
                ('{"loop": {"first": 1}}', r"loop in model in .* must be tuple\[int, int\]"),
                ('{"pattern": "AG", "vocab_size": 7}', "window_size must be set before the model is built"),
                (
                    '{"vocab_size": 2000000000, "window_size": 6, "d_model": 2000000000, "fast_heads": 2000000000, '
                    '"fast_key_dim": 2000000000}',
                    "model.safetensors must hold the tensors of its config.json: ",
                ),
                ("[]", r"model in .* must be an object, got \[\]"),
                ("[" * 100_000, "is not valid JSON: maximum recursion"),
            )
        ),
        ('{"model_type": "lmsleep", "version": 1, "trained": 3}', "trained in .* must be an object, got 3"),
    ],
)
def test_other_configurations_are_refused(build, tmp_path, text, message):
    build().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        HybridLM.from_pretrained(tmp_path)


def test_missing_and_truncated_files_are_refused(build, tmp_path):
    with pytest.raises(ValueError, match="source must be a folder or a name on the Hugging Face hub"):
        HybridLM.from_pretrained(tmp_path / "nothing" / "here")
    with pytest.raises(ValueError, match=r"must hold config.json, found none"):
        HybridLM.from_pretrained(tmp_path)
    build().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model.safetensors' is damaged"):
        HybridLM.from_pretrained(tmp_path)
    path.unlink()
    torch.save(build().state_dict(), tmp_path / "pytorch_model.bin")  # a pickle is not an answer
    with pytest.raises(ValueError, match=r"must hold model.safetensors, found none"):
        HybridLM.from_pretrained(tmp_path)


def test_what_json_cannot_hold_is_refused_before_anything_is_written(build, tmp_path):
    with pytest.raises(ValueError, match="trained must be made of what JSON can hold"):
        build().save_pretrained(tmp_path / "model", trained={"task": object()})
    with pytest.raises(ValueError, match="trained must be made of what JSON can hold"):
        build().save_pretrained(tmp_path / "model", trained={"loss": float("nan")})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_whose_sum_overflows_are_finite(dtype):
    largest = torch.full((99,), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(largest) and all_finite(torch.zeros(0))
    for value in (float("nan"), float("inf")):
        largest[7] = value
        assert not all_finite(largest)
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]))


def test_a_flipped_bit_in_the_weights_is_refused(build, tmp_path):
    build().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for place in (-1, -1000, len(whole) // 2):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model.safetensors' is damaged: "):
            HybridLM.from_pretrained(tmp_path)


def test_a_model_written_before_there_were_digests_is_read():
    assert HybridLM.from_pretrained(Path(__file__).parents[2] / "results/mini/model").config.pattern == "AG"


def test_a_head_tied_by_hand_comes_back_tied_and_one_untied_by_hand_does_not(build, tmp_path):
    for tied in (True, False):
        model = build(tie_embeddings=not tied)
        weight = model.embedding.weight
        model.head.weight = weight if tied else torch.nn.Parameter(weight.detach() + 1)
        model.save_pretrained(tmp_path)
        again = HybridLM.from_pretrained(tmp_path)
        assert (again.head.weight is again.embedding.weight) == again.config.tie_embeddings == tied
        assert torch.equal(again.head.weight, model.head.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "^device must be one that torch can use here, got 'gpu'"),
        ({"device": "cuda:99"}, "^device must be one that torch can use here, got 'cuda:99'"),
        ({"dtype": torch.int64}, "^dtype must be a floating-point dtype of torch or None, got torch.int64"),
        ({"dtype": "bfloat16"}, "^dtype must be a floating-point dtype of torch or None, got 'bfloat16'"),
    ],
)
def test_a_device_or_dtype_that_is_none_is_named(build, tmp_path, options, message):
    build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        HybridLM.from_pretrained(tmp_path, **options)


ELSEWHERE = """
import sys
from lmsleep import HybridConfig, HybridLM
config = HybridConfig(vocab_size=3, window_size=4, d_model=16, n_heads=2)
config.build().save_pretrained(sys.argv[1], card="schl\\u00e4ft")
HybridLM.from_pretrained(sys.argv[1])
"""


def test_text_is_utf8_in_every_locale(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path)], env=os.environ | ascii_only, check=True)
    assert "schläft" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["taken", "taken/model"])
def test_a_file_in_the_place_of_the_folder_is_refused(build, tmp_path, folder):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match=r"folder must be a new or an existing folder, got .*taken is a file"):
        build().save_pretrained(tmp_path / folder)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_whose_name_begins_as_a_user_s_is_read(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build().save_pretrained("~nobody-is-called-so")
    assert HybridLM.from_pretrained("~nobody-is-called-so").config == build().config


def test_a_name_on_the_hub_is_downloaded(build, tmp_path, monkeypatch):
    build().save_pretrained(tmp_path)
    asked = {}

    def download(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, files=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = HybridLM.from_pretrained("somebody/sleeper@v1")
    assert model.config == HybridConfig(**build().config.to_dict())
    assert asked == {"name": "somebody/sleeper", "revision": "v1", "files": ["model.safetensors", "config.json"]}


@pytest.mark.parametrize("free", [0, 100, 2_000, 200_000])
def test_a_full_disk_leaves_the_model_before_whole(build, tmp_path, free):
    """Another model and its tokenizer, the largest of its files, would replace one: all of it stays, or goes."""
    old, new = build(), build("AM")
    old.save_pretrained(tmp_path, trained={"n_passes": 1}, files={"tokenizer.json": "old"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(free), pytest.raises(OSError, match="File too large"):
        new.save_pretrained(tmp_path, trained={"n_passes": 4}, files={"tokenizer.json": "new" * 100_000})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert HybridLM.from_pretrained(tmp_path).trained == {"n_passes": 1}
    new.save_pretrained(tmp_path, trained={"n_passes": 4}, files={"tokenizer.json": "new"})
    assert HybridLM.from_pretrained(tmp_path).config.pattern == "AM"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md", "tokenizer.json"])
def test_a_file_that_cannot_be_replaced_leaves_the_others(build, tmp_path, name):
    """A folder stands in its place."""
    build().save_pretrained(tmp_path, trained={"n_passes": 1}, files={"tokenizer.json": "old"})
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=rf"must be a regular file, got '{tmp_path / name}'"):
        build("AM").save_pretrained(tmp_path, trained={"n_passes": 4}, files={"tokenizer.json": "new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
