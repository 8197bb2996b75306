"""Settings and files that Lightning, jsonargparse or YAML would answer late, with a traceback, or with no field."""

import sys
import warnings
from pathlib import Path

import pytest

from lmsleep.checks import PATHS
from lmsleep.cli import main, run
from lmsleep.errors import check_paths
from lmsleep.training import settings

RUN = ["--data.task=lmsleep.tasks.Rule110", "--data.task.steps=2", "--data.task.width=12", "--data.task.n_states=2"]
RUN += ["--data.batch_size=8", "--data.eval_rows=16", "--model.model.d_model=16", "--trainer.accelerator=cpu"]
RUN += ["--trainer.max_steps=1", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
pytestmark = pytest.mark.usefixtures("empty_folder")


HERE = "the settings of the trainer must fit together and this machine"


@pytest.mark.parametrize("command", ["fit", "plan"])
@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("accumulate_grad_batches=0", "--trainer.accumulate_grad_batches must be 1 or more, got 0"),
        ("val_check_interval=0", "--trainer.val_check_interval must be more than 0, or null, got 0"),
        ("check_val_every_n_epoch=0", "--trainer.check_val_every_n_epoch must be 1 or more, got 0"),
        ("log_every_n_steps=-1", "--trainer.log_every_n_steps must be 0 or more, got -1"),
        ("num_sanity_val_steps=-4", "--trainer.num_sanity_val_steps must be -1 or more, got -4"),
        ("gradient_clip_val=.nan", "--trainer.gradient_clip_val must be finite and 0 or more, or null, got nan"),
        *(
            (f"devices={n}", f"{HERE}: `devices` selected with `CPUAccelerator` should be an int > 0.")
            for n in (-1, [1])
        ),
        (f"devices={10**20}", f"{HERE}: cannot fit 'int' into an index-sized integer"),
        ("devices=foo", "--trainer.devices must be their number, their numbers, or auto, got 'foo'"),
        ("barebones=true", "--trainer.barebones must be false: a run reports and makes checkpoints, got true"),
    ],
)
def test_a_bad_setting_of_the_trainer_is_named_before_anything_is_written(command, setting, sentence, tmp_path):
    with pytest.raises(SystemExit) as said:
        main([command, *RUN, f"--trainer.{setting}"])
    assert str(said.value) == f"error: {sentence}" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "model: " + "[" * 2000 + "]" * 2000,
            "bad.yaml must not refer to itself, nor be nested hundreds of levels deep",
        ),
        ("data: &a\n  task: *a\n", "bad.yaml must not refer to itself, nor be nested hundreds of levels deep"),
        ("model:\n  model: [1, 2]\n", "--model.model must be a mapping of settings or null, got [1, 2]"),
        ("data:\n  task: [Depo]\n", "--data.task must be a mapping of settings, got ['Depo']"),
    ],
)
def test_a_bad_configuration_is_one_sentence(text, sentence, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SystemExit) as said:
        main(["fit", *RUN, "--config=bad.yaml"])
    assert f"error: {sentence}" in f"{capsys.readouterr().err}{said.value}"


def test_what_is_no_name_of_a_function_is_told_so(capsys):
    with pytest.raises(SystemExit):
        main(["fit", *RUN, "--sleep.on_overflow=5"])
    allowed = "must be the name of a function, or of a class that can be called"
    assert capsys.readouterr().err == f"error: --sleep.on_overflow {allowed}, got 5\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["test", "--ckpt_path=/dev/null"], "--ckpt_path must be a regular file, got '/dev/null'"),
        (
            ["test", "--ckpt_path=best"],
            "--ckpt_path must be a file, or last: a command does not know which of a run was best, got 'best'",
        ),
        (
            ["plan", "--ckpt_path=run/last.ckpt"],
            "--ckpt_path must be null to plan a run, whose steps are counted from the first, got 'run/last.ckpt'",
        ),
        (["plan", "--steps=99999999999999999999"], "--steps must be at most 1000000, got 99999999999999999999"),
        (["demo", "--rows=99999999999"], "--rows must be at most 1048576, got 99999999999"),
        (["demo", "--seed=-1"], "--seed must be 0 or more, got -1"),
        (["bench", "train", "--passes=[]"], "--passes must name one or more, got []"),
        (["bench", "train", "--variants=[]"], "--variants must name one or more, got []"),
    ],
)
def test_a_bad_option_of_a_command_is_named(words, sentence):
    name = words[: 2 if words[0] == "bench" else 1]
    with pytest.raises(SystemExit) as said:
        main([*name, *(RUN if name != ["demo"] else []), *words[len(name) :]])
    assert str(said.value) == f"error: {sentence}"


@pytest.mark.parametrize(("command", "dirpath"), [("test", "run"), ("predict", "null")])
def test_a_last_checkpoint_that_is_not_there_is_not_random_weights(command, dirpath, tmp_path):
    with pytest.raises(SystemExit) as said:
        main([command, *RUN, "--ckpt_path=last", f"--checkpoint.dirpath={dirpath}"])
    folder = None if dirpath == "null" else str(tmp_path / dirpath)
    got = "null" if folder is None else repr(folder)
    assert str(said.value) == f"error: --ckpt_path=last must find last.ckpt in --checkpoint.dirpath, got {got}"
    assert not list(tmp_path.iterdir())


def test_a_run_that_goes_on_with_its_last_checkpoint_starts_without_one_and_says_so(caplog):
    for said in (1, 0):
        caplog.clear()
        with warnings.catch_warnings(record=True) as warned:
            main(["fit", *RUN, "--ckpt_path=last", "--checkpoint.dirpath=run", f"--trainer.max_steps={2 - said}"])
        told = [message for message in caplog.messages if message.startswith("there is no last.ckpt to go on from")]
        assert len(told) == said and not [one for one in warned if "last" in str(one.message)]


@pytest.mark.parametrize(
    "words",
    [
        ["fit", *RUN, "--checkpoint.dirpath=run", "--ckpt_path=run/last.ckpt"],
        ["test", *RUN, "--ckpt_path=run/last.ckpt"],
        ["test", *RUN, "--checkpoint.dirpath=run", "--ckpt_path=last"],
        ["export", "--ckpt=run/last.ckpt", "--out=model"],
        ["chat", "--model=run"],
    ],
)
def test_a_run_that_was_killed_before_its_first_checkpoint_is_to_be_started_again(words, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed_everything: 0")  # all that is there by then
    with pytest.raises(SystemExit, match=r"before its first checkpoint, .*: start that again, without --ckpt_path"):
        main(words)


def test_a_run_that_would_end_before_its_checkpoint_is_refused(tmp_path):
    main(["fit", *RUN, "--checkpoint.dirpath=run", "--trainer.max_steps=2"])
    again = ["fit", *RUN, "--checkpoint.dirpath=run", "--ckpt_path=run/last.ckpt"]
    with pytest.raises(SystemExit) as said:
        main([*again, "--trainer.max_steps=1"])
    steps = "steps (--trainer.max_steps, or those of --trainer.max_epochs)"
    assert str(said.value) == f"error: {steps} must be 2 or more, at which the checkpoint is, got 1"
    main([*again, "--trainer.max_steps=2"])


def test_the_configuration_of_a_run_can_be_planned(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("ckpt_path: null\nweights_only: null")  # as `fit` writes it, among others
    main(["plan", *RUN, "--config=config.yaml", "--device=meta"])
    assert "tokens a step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("fit --checkpoint.dirpath=", "--checkpoint.dirpath"),
        ("fit --trainer.default_root_dir= --model.init_from=x", "--trainer.default_root_dir"),
        ("fit --model.init_from @", "--model.init_from"),
        ("fit --data.task.init_args.train=", "--data.task.init_args.train"),
        ("test --ckpt_path @ --trainer.logger=false", "--ckpt_path"),
        ("plan --config=", "--config"),
        ("bench train --out=", "--out"),
        ("finetune --model= --data=x", "--model"),
        ("finetune --model x --data @", "--data"),
        ("finetune --model=x --data=x --out=", "--out"),
        ("finetune --model=x --data=x --tokenizer=", "--tokenizer"),
        ("export --ckpt x --out @", "--out"),
        ("export --ckpt= --out=x", "--ckpt"),
        ("replay @", "bundle"),
        ("chat --model=", "--model"),
        ("chat --model x --read a.txt @", "--read"),
        ("chat --model x --read=", "--read"),
        ("demo --save=", "--save"),
        ("bench wake --out=", "--out"),
    ],
)
def test_a_path_that_is_empty_is_not_the_current_folder(words, option, tmp_path):
    with pytest.raises(SystemExit) as said:
        main([word.replace("@", "") for word in words.split()])
    assert str(said.value) == f"error: {option} must have a value, got ''" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["fit", "plan"])
@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("checkpoint: {dirpath: ''}", "checkpoint.dirpath"),
        ("model: {init_from: ''}", "model.init_from"),
        ("trainer: {default_root_dir: ''}", "trainer.default_root_dir"),
        (
            "trainer: {callbacks: [{class_path: ModelCheckpoint, init_args: {dirpath: ''}}]}",
            "trainer.callbacks.init_args.dirpath",
        ),
    ],
)
def test_nor_is_one_in_a_configuration(command, text, option, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(SystemExit) as said:
        main([command, *RUN, "--config=own.yaml"])
    assert str(said.value) == f"error: --{option} must have a value, got ''"
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]


def test_a_program_of_the_pipeline_takes_no_empty_path_either():
    def program(figure: str, out: Path) -> None:
        pytest.fail(f"{figure} is written to {out}")

    with pytest.raises(SystemExit, match=r"^error: --out must have a value, got ''$"):
        run(program, ["--figure=fig2b", "--out", ""])


def test_a_text_may_be_empty():
    check_paths(["--trainer.logger.name=", "--ask", "", "--config=a.yaml"], PATHS)


@pytest.mark.parametrize(
    ("command", "setting", "kind"),
    [
        ("fit", "data.task.init_args.steps", "an integer"),
        ("fit", "model.model.pattern", "a string"),
        ("plan", "model.optimizer.muon_lr", "a finite number"),
        ("plan --device=meta", "model.optimizer.muon_lr", "a finite number"),
    ],
)
def test_a_setting_below_a_class_may_be_null_only_where_the_class_says_so(command, setting, kind, tmp_path):
    with pytest.raises(SystemExit) as said:
        main([*command.split(), *RUN, f"--{setting}=null"])
    assert str(said.value) == f"error: --{setting} must be {kind}, got null" and not list(tmp_path.iterdir())


def test_a_change_of_pretrained_weights_may_not_be_null_either(build, tmp_path):
    build().save_pretrained(tmp_path / "weights")
    for command in ("fit", "plan"):
        with pytest.raises(SystemExit, match=r"^error: --model\.model\.pattern must be a string, got null$"):
            main([command, *RUN, "--model.init_from=weights", "--model.model.pattern=null"])


def test_settings_of_the_trainer_are_checked_once(monkeypatch):
    checked = []

    class Counted(dict):
        def items(self):
            checked.append(self)
            return super().items()

    monkeypatch.setattr(settings, "LEAST", Counted(settings.LEAST))
    monkeypatch.setattr("lightning.Trainer.fit", lambda *_, **__: sys.exit("not trained"))
    with pytest.raises(SystemExit, match=r"^not trained$"):
        main(["plan", *RUN])
    assert len(checked) == 1
