"""The name under which an interrupted run keeps its state: another one wherever it would not go on as it began."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from lmsleep.figures.train import RESUME, digest, main, seconds_before, train
from lmsleep.model import HybridLM
from lmsleep.pretrained import from_lightning
from lmsleep.tasks.gsm import DatasetConfig, ProblemConfig, make_dataset

PROBLEM = ProblemConfig(ops=(1, 1), templates=("terse",), length=(60, 80), instruction=False, window_sizes=(16,))


@pytest.fixture
def name(tmp_path):
    """name(seed): of a run on problems drawn with that seed, always in the same place, which the configuration or the
    command line names."""

    def name(seed, by_argument=False):
        problems, config = tmp_path / "problems", tmp_path / "run.yaml"
        if problems.exists():
            problems.rename(tmp_path / f"before_{len(list(tmp_path.iterdir()))}")
        make_dataset(problems, DatasetConfig(PROBLEM, train=2, val=0, test=0, seed=seed))
        task = {
            "class_path": "lmsleep.tasks.GSMInfinite",
            "init_args": {"path": None if by_argument else str(problems)},
        }
        OmegaConf.save({"data": {"task": task}}, config)
        more = [f"--data.task.init_args.path={problems}"] if by_argument else []
        return digest(Path("runs/x"), ["--config", str(config), *more])

    return name


@pytest.mark.parametrize("by_argument", [False, True])
def test_a_run_keeps_its_name_on_the_same_problems_alone(name, by_argument):
    assert name(0, by_argument) == name(0, by_argument) != name(1, by_argument)


def test_a_run_keeps_its_name_on_the_same_texts_alone(tmp_path):
    config, names = tmp_path / "run.yaml", []
    texts = {"train": str(tmp_path / "**/*.txt"), "test": str(tmp_path / "test.md")}
    OmegaConf.save({"data": {"task": {"class_path": "lmsleep.tasks.TextLM", "init_args": texts}}}, config)
    (tmp_path / "deep").mkdir()
    for file, text in (("deep/a.txt", "a"), ("deep/a.txt", "a"), ("deep/a.txt", "b"), ("test.md", "c"), ("x.md", "d")):
        (tmp_path / file).write_text(text)
        names.append(digest(Path("runs/x"), [f"--config={config}"]))
    assert names[0] == names[1] and names[3] == names[4] and len(set(names)) == 3


@pytest.mark.parametrize("source", ["deep", "deep/**", "deep/a.csv", "deep/a.csv:train"])
def test_a_run_keeps_its_name_on_the_same_files_of_a_folder_or_dataset_alone(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    OmegaConf.save({"data": {"task": {"init_args": {"train": source}}}}, "run.yaml")
    Path("deep/er").mkdir(parents=True)
    names = []
    for text in ("a", "a", "b"):
        Path("deep/a.csv").write_text(text)
        names.append(digest(Path("runs/x"), ["--config=run.yaml"]))
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("by_argument", [False, True])
@pytest.mark.parametrize("source", ["model", "model/tokenizer.json"])
def test_a_run_keeps_its_name_under_the_same_tokenizer_alone(tmp_path, monkeypatch, source, by_argument):
    """Which is no configuration, though it may have such an ending."""
    monkeypatch.chdir(tmp_path)
    task = {"init_args": {} if by_argument else {"tokenizer": source}}
    OmegaConf.save({"data": {"task": task}}, "run.yaml")
    Path("model").mkdir()
    names = []
    for token in ("${a}", "${a}", "${b}"):
        Path("model/tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": token}]}))
        more = [f"--data.task.init_args.tokenizer={source}"] if by_argument else []
        names.append(digest(Path("runs/x"), ["--config", "run.yaml", *more]))
    assert names[0] == names[1] != names[2]


OWN_SLEEP = "own_part.Sleep"


@pytest.mark.parametrize(
    ("config", "arguments", "plugins"),
    [
        ({"data": {"task": {"class_path": "own_part.Parity"}}}, [], ""),
        ({"sleep": {"on_overflow": {"class_path": OWN_SLEEP}}}, [], ""),
        ({"sleep": {"on_overflow": OWN_SLEEP}}, [], ""),
        ({}, [f"--sleep.on_overflow={OWN_SLEEP}", "--sleep.on_overflow.passes=2"], ""),
        ({}, ["--model.model.pattern=AH"], "lmsleep.ops, own_part"),
    ],
    ids=["task", "sleep", "function", "argument", "rule"],
)
def test_a_run_keeps_its_name_on_the_same_code_of_ones_own_alone(tmp_path, monkeypatch, config, arguments, plugins):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LMSLEEP_PLUGINS", plugins)
    OmegaConf.save(config, tmp_path / "run.yaml")
    names = []
    for text in ("a = 1", "a = 1", "a = 2"):
        (tmp_path / "own_part.py").write_text(text)
        names.append(digest(Path("runs/x"), [f"--config={tmp_path / 'run.yaml'}", *arguments]))
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("by_argument", [False, True])
def test_a_run_keeps_its_name_from_the_same_weights_alone(tmp_path, by_argument):
    def name(weights):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model/model.safetensors").write_bytes(weights)
        model = {} if by_argument else {"init_from": str(tmp_path / "model")}
        OmegaConf.save({"model": model}, tmp_path / "run.yaml")
        more = [f"--model.init_from={tmp_path / 'model'}"] if by_argument else []
        return digest(Path("runs/x"), ["--config", str(tmp_path / "run.yaml"), *more])

    assert name(b"a") == name(b"a") != name(b"b")


@pytest.mark.parametrize("file", ["run.yaml", "run.yml", "run.json"])
@pytest.mark.parametrize("task", ["lmsleep.tasks.Rule110", {"class_path": "lmsleep.tasks.Rule110"}])
def test_place_arguments_and_configuration_are_in_the_name(tmp_path, task, file):
    config, names = tmp_path / file, set()
    for seed in (0, 1):
        OmegaConf.save({"seed_everything": seed, "data": {"task": task}}, config)
        for out, n_passes in (("runs/x", 1), ("runs/y", 1), ("runs/x", 2)):
            names.add(digest(Path(out), [f"--config={config}", f"--sleep.n_passes={n_passes}"]))
    assert len(names) == 6


@pytest.mark.parametrize(
    ("config", "argument", "sentence"),
    [
        ("none.yaml", "--sleep.n_passes=2", "there is no file or folder '.*none.yaml'"),
        ("run.yaml", "--trainer.max_steps=-1", "--trainer.max_steps must be set"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, config, argument, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])  # Lightning warns of arguments that it does not use
    OmegaConf.save({"data": {"task": "lmsleep.tasks.Rule110"}, "trainer": {"accelerator": "cpu"}}, "run.yaml")
    with pytest.raises(SystemExit, match=f"^error: {sentence}"):
        main(["runs/x", "--config", config, argument])
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
    assert logging.getLogger("lightning.pytorch.utilities.rank_zero").isEnabledFor(logging.INFO)


@pytest.mark.parametrize(
    "words",
    [
        "--config=",
        "--config @",
        "--ckpt_path=",
        "--checkpoint.dirpath=",
        "--trainer.default_root_dir @",
        "--arm --model.init_from=",
    ],
)
def test_a_path_that_is_empty_is_one_sentence_and_trains_nothing(tmp_path, monkeypatch, words):
    """As `lmsleep fit` has it, also where the stage would put another path in its place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmsleep.figures.train.arguments_of_arm", lambda _: ())
    monkeypatch.setattr("lmsleep.figures.train.run_trainer", lambda *_, **__: pytest.fail("it was trained"))
    option = next(word for word in words.replace("=", " ").split() if word not in ("--arm", "@"))
    with pytest.raises(SystemExit, match=f"^error: {option} must have a value, got ''$"):
        main(["runs/x", *(word.replace("@", "") for word in words.split())])


@pytest.mark.parametrize(
    ("pattern", "window_size", "sentence"),
    [("AG", 10, r"no window of the batch \(10 tokens, windows of 10, "), ("AA", 4, "the model has no fast weights ")],
)
def test_a_run_in_which_nothing_would_sleep_is_an_error_before_its_first_step(
    tmp_path, monkeypatch, pattern, window_size, sentence
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])
    task = {"class_path": "lmsleep.tasks.Rule110", "init_args": {"steps": 1, "width": 4, "n_states": 2}}
    model = {"d_model": 8, "n_heads": 1, "pattern": pattern, "window_size": window_size}
    data, trainer = {"task": task, "batch_size": 2, "eval_rows": 2}, {"accelerator": "cpu", "max_steps": 1}
    OmegaConf.save({"data": data, "model": {"model": model}, "trainer": trainer}, "run.yaml")
    with pytest.raises(SystemExit, match=f"^error: n_passes is 2, but {sentence}"):
        main(["runs/x", "--config", "run.yaml", "--sleep.n_passes=2"])
    assert not Path("runs/x").exists() and not list(tmp_path.rglob("*.ckpt"))
    main(["runs/x", "--config", "run.yaml"])
    assert Path("runs/x/last.ckpt").is_file()


def test_what_a_killed_or_failed_run_left_is_not_in_the_finished_one(tmp_path, monkeypatch):
    """A kill within the first writing of a checkpoint, a loss that was not finite once: the next run has the same state
    folder."""
    monkeypatch.chdir(tmp_path)
    OmegaConf.save({"data": {"task": "lmsleep.tasks.Rule110"}}, "run.yaml")
    arguments = ["--config", "run.yaml"]
    state = RESUME / digest(Path("runs/x"), arguments)
    state.mkdir(parents=True)
    (state / ".last.ckpt.0123abcd").touch()
    (state / "previous.ckpt").touch()
    (state / "nonfinite-step3" / "x").mkdir(parents=True)

    def run_trainer(*_, **__):
        (state / "last.ckpt").touch()
        return SimpleNamespace(trainer=SimpleNamespace(is_global_zero=True))

    monkeypatch.setattr("lmsleep.figures.train.run_trainer", run_trainer)
    monkeypatch.setattr("lmsleep.figures.train.tokens_read", lambda _: 0)
    train(Path("runs/x"), arguments)
    assert {path.name for path in Path("runs/x").iterdir()} == {"last.ckpt", "run.json"}


def write_small_run():
    """run.yaml: four steps, a validation after every second."""
    small = {"init_args": {"steps": 2, "width": 6, "n_states": 2}, "class_path": "lmsleep.tasks.Rule110"}
    trainer = {"accelerator": "cpu", "max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}
    data = {"task": small, "batch_size": 4, "eval_rows": 4}
    OmegaConf.save({"data": data, "model": {"model": {"d_model": 16}}, "trainer": trainer}, "run.yaml")


def test_a_run_whose_export_failed_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])
    write_small_run()
    steps, save, ends = [], HybridLM.save_pretrained, [OSError(28, "No space left on device"), None]

    def saved(model, folder, *args):
        if end := ends.pop(0):
            (Path(folder) / ".model.safetensors.0123abcd").write_bytes(b"half")
            raise end
        save(model, folder, *args)

    monkeypatch.setattr("lmsleep.training.RunReport.on_train_batch_end", lambda *_: steps.append(1))
    monkeypatch.setattr(HybridLM, "save_pretrained", saved)
    with pytest.raises(SystemExit, match=r"^error: no space left on device$"):
        main(["runs/x", "--export", "--config=run.yaml"])
    assert not Path("runs/x").exists() and len(steps) == 4
    main(["runs/x", "--export", "--config=run.yaml"])
    assert len(steps) == 4 and not list(RESUME.iterdir())
    made = {"config.json", "model.safetensors", "README.md", "config.yaml", "curve.csv", "last.ckpt", "run.json"}
    assert {path.name for path in Path("runs/x").iterdir()} == made
    assert Path("runs/x/curve.csv").read_text().count("\n") == 3
    weights = from_lightning("runs/x/last.ckpt").state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in load_file("runs/x/model.safetensors").items())
    assert json.loads(Path("runs/x/run.json").read_text())["args"] == ["--config=run.yaml"]


def test_a_run_that_was_stopped_has_the_seconds_of_all_its_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    OmegaConf.save({"data": {"task": "lmsleep.tasks.Rule110"}}, "run.yaml")
    clock, codes = [0.0], [143, 130, 1, 0]
    state = RESUME / digest(Path("runs/x"), ["--config", "run.yaml"])

    def run_trainer(*_, **__):
        state.mkdir(parents=True, exist_ok=True)
        clock[0] += 100.0
        if code := codes.pop(0):
            raise SystemExit(code)
        return SimpleNamespace(trainer=SimpleNamespace(is_global_zero=True))

    monkeypatch.setattr("lmsleep.figures.train.run_trainer", run_trainer)
    monkeypatch.setattr("lmsleep.figures.train.tokens_read", lambda _: 0)
    monkeypatch.setattr("lmsleep.figures.train.time.time", lambda: clock[0])
    for _ in range(3):  # a failure, as of a run that another process has in use, adds nothing
        with pytest.raises(SystemExit):
            train(Path("runs/x"), ["--config", "run.yaml"])
    train(Path("runs/x"), ["--config", "run.yaml"])
    assert json.loads(Path("runs/x/run.json").read_text())["seconds"] == 300.0
    assert [path.name for path in Path("runs/x").iterdir()] == ["run.json"]


def test_a_run_that_was_killed_has_the_seconds_until_its_last_checkpoint(tmp_path, monkeypatch):
    """The note is written with each checkpoint; what the killed run did behind it is done again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])
    write_small_run()
    clock, args = [0.0], ["runs/x", "--config=run.yaml"]
    state = RESUME / digest(Path("runs/x"), args[1:])
    monkeypatch.setattr("lmsleep.figures.train.time.time", lambda: clock[0])

    class Killed(BaseException):
        """As a kill, which no run can answer."""

    def end_of_batch(*_):
        clock[0] += 100.0
        if clock[0] == 300.0:
            raise Killed

    monkeypatch.setattr("lmsleep.training.RunReport.on_train_batch_end", end_of_batch)
    with pytest.raises(Killed):
        main(args)
    assert json.loads((state / "seconds.json").read_text()) == {"seconds": 200.0}
    clock[0] = 1000.0
    main(args)
    assert json.loads(Path("runs/x/run.json").read_text())["seconds"] == 400.0
    assert not Path("runs/x/seconds.json").exists()
    assert "seconds" not in Path("runs/x/config.yaml").read_text()


@pytest.mark.parametrize("note", ["garbage", "{}", '{"seconds": "x"}', '{"seconds": null}', '{"seconds": 1e999}', "[]"])
def test_a_note_of_seconds_that_cannot_be_read_counts_none(tmp_path, note):
    (tmp_path / "seconds.json").write_text(note)
    assert seconds_before(tmp_path) == 0
    assert seconds_before(tmp_path / "nowhere") == 0
