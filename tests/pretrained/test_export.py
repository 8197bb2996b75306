"""A checkpoint that `lmsleep fit` wrote, turned into a folder: the same model."""

import json
import shutil
import sys

import lightning as pl
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from lmsleep import HybridConfig, HybridLM, Session, SleepCallback, SleepModule, read_windows
from lmsleep.cli import main as lmsleep
from lmsleep.data import RowsDataModule
from lmsleep.hub import named_eos, open_tokenizer
from lmsleep.model import mixers
from lmsleep.model.trained import trained_sleeps
from lmsleep.pretrained import load_pretrained
from lmsleep.pretrained.export import export, from_lightning
from lmsleep.tasks import Rule110
from lmsleep.tasks.spec import build_task

TASK = Rule110(steps=1, width=4, n_states=2)


def train(folder, max_steps, *callbacks):
    """A trained module, whose checkpoint and configuration are then in the folder."""
    module = SleepModule(TASK, HybridConfig(d_model=16, pattern="AG", n_heads=2))
    trainer = pl.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        callbacks=[SleepCallback(3), *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, RowsDataModule(TASK, batch_size=4))
    trainer.save_checkpoint(folder / "last.ckpt")
    task = {"class_path": "lmsleep.tasks.Rule110", "init_args": {"steps": 1, "width": 4, "n_states": 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"task": task}}))
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained module and the folder of its run."""
    folder = tmp_path_factory.mktemp("run")
    return train(folder, 2), folder


def logits(model):
    with torch.no_grad():
        tokens = TASK.rows(split="test", seed=0, step=0, batch_size=3).tokens
        return read_windows(model, tokens, n_passes=3).logits


def test_from_lightning_gives_the_trained_model(run):
    module, folder = run
    model = from_lightning(folder / "last.ckpt")
    assert model.config == module.model.config
    assert torch.equal(logits(model), logits(module.model))


def test_a_session_of_it_has_the_N_of_the_training(run):
    assert Session(from_lightning(run[1] / "last.ckpt")).n_passes == 3


def test_it_is_read_as_it_was_trained_unless_that_was_with_a_sleep_of_its_own(run):
    trained = from_lightning(run[1] / "last.ckpt").trained
    sleeps = {"n_passes": 3, "eviction": "hard", "after_loss": False, "wake_passes": 1}
    assert trained_sleeps(trained, "runs/x") == sleeps
    with pytest.raises(ValueError, match=r"^on_overflow of runs/x must be None, got 'mine\.Sleep'$"):
        trained_sleeps(trained | {"on_overflow": "mine.Sleep"}, "runs/x")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_writes_a_folder_that_reads_back(run, tmp_path, dtype, capsys):
    module, folder = run
    lmsleep(
        [
            "export",
            "--ckpt",
            str(folder / "last.ckpt"),
            "--out",
            str(tmp_path / "out"),
            "--dtype",
            dtype,
            "--card",
            "A sleeper.",
        ]
    )
    assert "MB" in capsys.readouterr().out
    model = HybridLM.from_pretrained(tmp_path / "out")
    wanted = module.model.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, wanted[name].to(getattr(torch, dtype)))
    trained = json.loads((tmp_path / "out/config.json").read_text())["trained"]
    assert (trained["n_passes"], trained["eviction"], trained["steps"]) == (3, "hard", 2)
    assert trained["task"]["init_args"]["width"] == 4
    assert "A sleeper." in (tmp_path / "out/README.md").read_text()


def test_a_model_in_the_folder_is_replaced_only_where_that_is_asked_for(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    words = ["export", f"--ckpt={run[1] / 'last.ckpt'}", f"--out={out}"]
    lmsleep(words)
    for file in ("model.safetensors", "config.json"):
        (out / file).write_text("before")
    with pytest.raises(
        SystemExit, match=r"^error: --out must be a folder without model\.safetensors, .* --overwrite rep"
    ):
        lmsleep(words)
    assert (out / "model.safetensors").read_text() == "before" and (out / "notes.txt").read_text() == "mine"
    lmsleep([*words, "--overwrite"])
    assert HybridLM.from_pretrained(out).config == run[0].model.config
    with pytest.raises(SystemExit, match=r"^error: --out must be a new or an existing folder, got "):
        lmsleep([*words[:2], f"--out={out}/notes.txt", "--overwrite"])


def test_a_checkpoint_alone_names_its_task(run, tmp_path):
    shutil.copy(run[1] / "last.ckpt", tmp_path)
    export(tmp_path / "last.ckpt", tmp_path / "out")
    trained = json.loads((tmp_path / "out/config.json").read_text())["trained"]
    assert build_task(trained["task"]) == TASK


class StopAfterThree(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == 3


def test_a_model_whose_training_was_broken_off_says_so_where_it_is_exported_and_used(tmp_path, run, recwarn):
    train(tmp_path, 5, StopAfterThree())
    said = "^the training of the model ended after 3 of 5 steps$"
    with pytest.warns(UserWarning, match=said):
        export(tmp_path / "last.ckpt", tmp_path / "out")
    with pytest.warns(UserWarning, match=said):
        Session.from_pretrained(tmp_path / "out")
    with pytest.warns(UserWarning, match=said):
        lmsleep(["demo", f"--model={tmp_path / 'out'}", "--rows=2", "--pace=0"])
    recwarn.clear()
    export(run[1] / "last.ckpt", tmp_path / "whole")
    Session.from_pretrained(tmp_path / "whole")
    assert not [warned for warned in recwarn if "steps" in str(warned.message)]


@pytest.mark.parametrize(
    "command", ["chat --model={}", "demo --model={}", "export --out=out --ckpt={}", "finetune --data=d --model={}"]
)
def test_the_folder_of_a_run_in_place_of_a_model_is_one_sentence_that_says_what_is_there(
    command, run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun").mkdir()
    shutil.copy(run[1] / "config.yaml", "begun")
    shutil.copytree(run[1], "kept")
    with pytest.raises(
        SystemExit, match=r"^error: .*; begun is of a run that was broken off before its first checkpoint"
    ):
        lmsleep(command.format("begun").split())
    with pytest.raises(
        SystemExit, match=r"^error: .*lmsleep export --ckpt=kept/last.ckpt --out OUT` makes a model of it"
    ):
        lmsleep(command.format("kept").split())


def test_a_checkpoint_that_a_run_never_wrote_is_one_sentence_that_says_so(run, tmp_path):
    shutil.copy(run[1] / "config.yaml", tmp_path)
    with pytest.raises(ValueError, match=r"no file .*/last.ckpt'; .* was broken off before its first checkpoint"):
        export(tmp_path / "last.ckpt", tmp_path / "out")


def test_what_is_no_checkpoint_is_refused(run, tmp_path):
    whole = (run[1] / "last.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name, message in (
        ("none.ckpt", "there is no file"),
        ("half.ckpt", "is damaged"),
        ("other.ckpt", "must be a checkpoint of a SleepModule"),
        (".", "must be one file, as --trainer.strategy.save_distributed_checkpoint=false makes it, .*"),
    ):
        with pytest.raises(ValueError, match=message):
            from_lightning(tmp_path / name)
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            lmsleep(["export", "--ckpt", str(tmp_path / name), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_refused(run, tmp_path):
    content = torch.load(run[1] / "last.ckpt", weights_only=True)
    content["state_dict"].pop("model.norm.weight")
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="must hold the weights of its model_config"):
        from_lightning(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("model_config", None, "model_config in .* must be .*HybridConfig, got None"),
        ("model_config", {"d_model": "16"}, "d_model in model_config in .* must be an integer, got '16'"),
        ("model_config", {"width": 16}, "model_config in .* must hold the fields of .*HybridConfig: .*'width'"),
        ("state_dict", [1], r"state_dict in .* must be an object, got \[1\]"),
        ("state_dict", {"model.norm.weight": 3}, "must hold the weights of its model_config"),
    ],
)
def test_a_checkpoint_of_other_values_is_refused(run, tmp_path, part, value, message):
    torch.save(torch.load(run[1] / "last.ckpt", weights_only=True) | {part: value}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=message):
        from_lightning(tmp_path / "last.ckpt")


class Harmful:
    def __reduce__(self):
        return (open, ("lmsleep-was-here", "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"model_config": {}, "state_dict": {}, "x": Harmful()}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        from_lightning(tmp_path / "bad.ckpt")


def exported(run, tmp_path, **said):
    """The folder of the run's checkpoint exported with the spec of a task on texts."""
    path = tmp_path / "config.yaml"
    task = {"class_path": "lmsleep.tasks.TextQA", "init_args": {"train": "gone.jsonl", **said}}
    path.write_text(yaml.safe_dump({"data": {"task": task}}))
    export(run[1] / "last.ckpt", tmp_path / "out", config=path)
    return tmp_path / "out"


def test_the_tokenizer_of_the_task_goes_along(run, tmp_path):
    out = exported(run, tmp_path, tokenizer="bytes")
    assert AutoTokenizer.from_pretrained(out)("blü <eos>").input_ids == open_tokenizer("bytes").encode("blü <eos>").ids
    assert named_eos(out) == "<eos>"


def test_a_folder_of_another_model_gives_its_tokenizer_and_settings(run, tmp_path):
    (tmp_path / "theirs").mkdir()
    Tokenizer(models.WordLevel({str(i): i for i in range(3)}, "0")).save(str(tmp_path / "theirs/tokenizer.json"))
    (tmp_path / "theirs/tokenizer_config.json").write_text('{"eos_token": "2", "chat_template": "{{ messages }}"}')
    out = exported(run, tmp_path, tokenizer=str(tmp_path / "theirs"))
    assert open_tokenizer(out).get_vocab() == {"0": 0, "1": 1, "2": 2}
    assert json.loads((out / "tokenizer_config.json").read_text()).items() >= {
        ("eos_token", "2"),
        ("chat_template", "{{ messages }}"),
    }
    assert named_eos(exported(run, tmp_path, tokenizer=str(tmp_path / "theirs"), eos_token="1")) == "1"


def test_a_tokenizer_that_is_gone_is_warned_of_and_the_model_written(run, tmp_path):
    with pytest.warns(UserWarning, match="no tokenizer is written: tokenizer must be a folder or a name"):
        out = exported(run, tmp_path, tokenizer=str(tmp_path / "gone"))
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "README.md"}


RULE = """
from lmsleep.model import register_mixer
from lmsleep.model.gated_delta import GatedDelta

register_mixer("H", "mine", GatedDelta)
"""


@pytest.fixture
def own_letter(tmp_path, monkeypatch):
    """A checkpoint and a folder of a model with the letter H, which only the module `rule_of_mine` registers."""
    monkeypatch.setattr(mixers, "MIXERS", mixers.MIXERS | {"H": mixers.MIXERS["G"]})
    model = HybridConfig(3, d_model=16, pattern="AH", window_size=4, n_heads=2).build()
    model.save_pretrained(tmp_path / "model")
    weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    content = {"state_dict": weights, "model_config": model.config.to_dict(), "pytorch-lightning_version": "2.6.0"}
    torch.save(content, tmp_path / "last.ckpt")
    (tmp_path / "rule_of_mine.py").write_text(RULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(mixers, "MIXERS", {letter: mixers.MIXERS[letter] for letter in mixers.BUILT_IN})
    monkeypatch.chdir(tmp_path)
    mixers.load_plugins.cache_clear()
    yield
    sys.modules.pop("rule_of_mine", None)
    mixers.load_plugins.cache_clear()


READERS = {
    "export": lambda: lmsleep(["export", "--ckpt=last.ckpt", "--out=out"]),
    "saved folder": lambda: HybridLM.from_pretrained("model"),
    "weights to start from": lambda: load_pretrained("model", 4),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_letter_of_ones_own_is_known_where_its_module_is_named(own_letter, monkeypatch, read):
    """To all alike, and by the user alone: what they read names no module."""
    with pytest.raises(
        (ValueError, SystemExit), match=r"pattern must be .* plugin \(LMSLEEP_PLUGINS=MODULE\), .* 'AH'"
    ):
        read()
    mixers.load_plugins.cache_clear()
    monkeypatch.setenv("LMSLEEP_PLUGINS", "no_such_rule")
    with pytest.raises(
        (ValueError, SystemExit), match=r"LMSLEEP_PLUGINS must name modules .*, got 'no_such_rule': No "
    ):
        read()
    monkeypatch.setenv("LMSLEEP_PLUGINS", "json, rule_of_mine")
    read()
    assert mixers.MIXERS["H"][0] == "mine"
