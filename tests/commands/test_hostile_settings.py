"""Settings and files that Lightning, jsonargparse or YAML would answer late, with a traceback, or with no field."""

import pytest

from lmsleep.cli import main

RUN = ["--data.task=lmsleep.tasks.Rule110", "--data.task.steps=2", "--data.task.width=12", "--data.task.n_states=2"]
RUN += ["--data.batch_size=8", "--data.eval_rows=16", "--model.model.d_model=16", "--trainer.accelerator=cpu"]
RUN += ["--trainer.max_steps=1", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize("command", ["fit", "plan"])
@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("accumulate_grad_batches=0", "accumulate_grad_batches of the trainer must be 1 or more, got 0"),
        ("val_check_interval=0", "val_check_interval of the trainer must be more than 0, or null, got 0"),
        ("check_val_every_n_epoch=0", "check_val_every_n_epoch of the trainer must be 1 or more, got 0"),
        ("log_every_n_steps=-1", "log_every_n_steps of the trainer must be 0 or more, got -1"),
        ("num_sanity_val_steps=-4", "num_sanity_val_steps of the trainer must be -1 or more, got -4"),
        ("gradient_clip_val=.nan", "gradient_clip_val of the trainer must be finite and 0 or more, or null, got nan"),
        ("devices=foo", "devices of the trainer must be their number, their numbers, or auto, got 'foo'"),
        ("barebones=true", "barebones of the trainer must be false: a run reports and makes checkpoints, got True"),
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
        (["test", "--ckpt_path=/dev/null"], "ckpt_path must be a regular file, got '/dev/null'"),
        (["plan", "--steps=99999999999999999999"], "steps must be at most 1000000, got 99999999999999999999"),
        (["demo", "--rows=99999999999"], "rows must be at most 1048576, got 99999999999"),
        (["demo", "--seed=-1"], "seed must be 0 or more, got -1"),
        (["bench", "train", "--passes=[]"], "passes must name one or more, got []"),
        (["bench", "train", "--variants=[]"], "variants must name one or more, got []"),
    ],
)
def test_a_bad_option_of_a_command_is_named(words, sentence):
    name = words[: 2 if words[0] == "bench" else 1]
    with pytest.raises(SystemExit) as said:
        main([*name, *(RUN if name != ["demo"] else []), *words[len(name) :]])
    assert str(said.value) == f"error: {sentence}"
