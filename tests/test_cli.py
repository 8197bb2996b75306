"""The command line does what it says, in one sentence where it cannot, and survives SIGTERM."""

import errno
import importlib
import inspect
import json
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.strategies import ModelParallelStrategy
from tests.disks import full_disk
from tests.programs import start

from lmsleep import Session, SleepModule
from lmsleep.cli import COMMANDS, RUNS, TRAINER, main
from lmsleep.commands.fit import SleepCLI
from lmsleep.commands.parser import RunParser
from lmsleep.model import mixers
from lmsleep.model.gated_delta import GatedDelta
from lmsleep.tasks.gsm import MINI, DatasetConfig, make_dataset
from lmsleep.training import LastCheckpoint

CONFIG = Path(__file__).parents[1] / "configs" / "experiment" / "rule110.yaml"
TINY = [
    f"--config={CONFIG}",
    "--data.task.init_args={steps: 2, width: 6, n_states: 2}",
    "--data.batch_size=8",
    "--data.eval_rows=8",
    "--data.eval_batch_size=8",
    "--model.model.d_model=16",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
]
pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def fit(tmp_path):
    """fit("--key=value", ...): `lmsleep fit`; returns the checkpoint it leaves."""

    def fit(*args, folder="run"):
        main(["fit", *TINY, f"--checkpoint.dirpath={folder}", f"--trainer.default_root_dir={folder}", *args])
        return torch.load(tmp_path / folder / "last.ckpt", weights_only=True)

    return fit


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory):
    """The folder that `lmsleep fit` leaves after a step."""
    folder = tmp_path_factory.mktemp("trained")
    main(["fit", *TINY, "--trainer.max_steps=1", f"--checkpoint.dirpath={folder}"])
    return folder


@pytest.fixture
def trained(trained_folder, tmp_path):
    """What `lmsleep fit` saves after a step, and in the folder `run` that run itself."""
    shutil.copytree(trained_folder, tmp_path / "run")
    return torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)


def printed(capsys, *args):
    with pytest.raises(SystemExit) as end:
        main(args)
    assert not end.value.code
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """A folder of 48 stored problems to train on, whose answers are all in the same window."""
    folder = tmp_path_factory.mktemp("gsm") / "problems"
    make_dataset(folder, DatasetConfig(MINI, train=48, val=4, test=4))
    return folder


def on_stored(folder, *args):
    """Options of a tiny run on stored problems."""
    task = {"class_path": "lmsleep.tasks.GSMInfinite", "init_args": {"path": str(folder)}}
    tiny = [arg for arg in TINY if not arg.startswith(("--config", "--data.task"))]
    return [f"--data.task={json.dumps(task)}", *tiny, "--trainer.check_val_every_n_epoch=null", *args]


@pytest.mark.parametrize(("limit", "steps"), [(-1, 6), (5, 5), (50, 6)])
def test_rounds_over_stored_problems_end_a_run(problems, limit, steps):
    """Two rounds over 6 batches of 8, two batches a step, unless the steps end before."""
    more = ["--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=2", f"--trainer.max_steps={limit}"]
    main(["fit", *on_stored(problems, "--trainer.val_check_interval=100", "--checkpoint.dirpath=run", *more)])
    assert torch.load("run/last.ckpt", weights_only=True)["global_step"] == steps


def test_a_plan_counts_rounds_over_stored_problems(problems, capsys):
    main(["plan", "--device=meta", *on_stored(problems, "--trainer.max_epochs=200")])
    assert re.search(r"steps +│ +1,200 ", capsys.readouterr().out)


def test_help_names_what_matters(capsys):
    text = printed(capsys, "fit", "--help")
    for words in ("--sleep.n_passes", "--model.model.help", "--data.batch_size", "--checkpoint.dirpath"):
        assert words in text
    assert "the total number of passes over a window that overflows" in " ".join(text.split())
    assert "--model.model.pattern" in printed(capsys, "fit", "--model.model.help")


@pytest.mark.parametrize("name", [*TRAINER, *RUNS, *COMMANDS])
def test_ten_lines_of_help_show_how_a_command_is_used(name, capsys):
    text = printed(capsys, *name.split(), "--help")
    usage, *lines = text.splitlines()[:10]
    assert usage.startswith(f"usage: lmsleep {name} ")
    command = "test" if name in TRAINER else name
    assert any(line.startswith(f"lmsleep {command}") for line in lines)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "finetune"])
def test_what_measures_a_run_shows_its_own_options_alone_and_takes_those_of_the_run(name, capsys):
    text = printed(capsys, *name.split(), "--help")
    assert not re.search(r"^  --\w+\.", text, re.M) and "`lmsleep fit --help`" in text and "--config" in text
    config = yaml.safe_load(printed(capsys, *name.split(), *TINY, "--trainer.max_steps=7", "--print_config"))
    assert config["trainer"]["max_steps"] == 7


def test_the_options_of_lightning_are_the_last_of_a_run(capsys):
    groups = list(dict.fromkeys(re.findall(r"^  --(\w+)", printed(capsys, "fit", "--help"), re.M)))
    assert {"model", "data", "sleep", "checkpoint", "ckpt_path"} <= set(groups[:-3])
    assert set(groups[-3:]) == {"trainer", "optimizer", "lr_scheduler"}


def test_commands_that_do_not_train_do_without_lightning():
    modules = [module for name, (module, _) in COMMANDS.items() if name != "replay"]
    code = f"import sys, lmsleep.cli, {', '.join(modules)}; print('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_program_alone_lists_all_commands(capsys):
    for words in ([], ["--help"], ["bench", "--help"]):
        main(words)
        listing = capsys.readouterr().out
        assert all(f"  {name} " in listing for name in [*TRAINER, *RUNS, *COMMANDS])


def test_the_list_is_there_without_torch():
    code = "import sys; from lmsleep.cli import main; main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("words", [[], ["doctor"]])
def test_a_program_whose_output_nobody_reads_ends_quietly_as_if_by_sigpipe(words):
    program = [sys.executable, "-m", "lmsleep", *words]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # long before the first line, as `lmsleep | true` does
        assert (process.stderr.read(), process.wait()) == (b"", 128 + signal.SIGPIPE)


def test_ctrl_c_while_a_command_is_loaded_ends_it_without_a_traceback(tmp_path):
    """torch alone takes a second; what imports it, or numpy, may take the interrupt for a lack of it."""
    (tmp_path / "slow.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    # In the background of a shell SIGINT is ignored, by what it starts as well.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from lmsleep import cli; "
    code += "cli.COMMANDS['doctor'] = ('slow', ''); cli.main(['doctor'])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_without_an_output_a_command_runs_all_the_same(monkeypatch, closed):
    monkeypatch.setattr(sys, closed, None)  # as Python has it under `>&-`
    main(["--version"])
    getattr(sys, closed).write("a word of a library")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sleep", "4"], "'sleep'"),
        (["dmeo"], "'dmeo', but there is 'demo'"),
        (["bench", "wkae", "4"], "'bench wkae', but there is 'bench wake'"),
    ],
)
def test_an_unknown_command_is_one_sentence_that_names_the_nearest(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert capsys.readouterr().err == f"error: there is no command {said}; lmsleep --help lists all\n"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "plan", "bench train"])
def test_a_run_without_a_task_asks_for_a_configuration(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*command.split()])
    said = "error: a run needs a task: give --config, for example configs/experiment/rule110.yaml\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_types_and_defaults_of_its_options(name, capsys):
    text = " ".join(printed(capsys, *name.split(), "--help").split())
    module = importlib.import_module(COMMANDS[name][0])
    assert f"usage: lmsleep {name}" in text and module.__doc__.split("\n")[0][:60] in text
    for parameter in inspect.signature(module.main).parameters.values():
        assert f"--{parameter.name}" in text or f"usage: lmsleep {name} {parameter.name} " in text
        if isinstance(parameter.default, (int, float, Path)):
            assert re.search(rf"--{parameter.name} .*default: {parameter.default}", text)


def test_an_argument_that_cannot_be_parsed_exits_with_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--rows=many"])
    assert capsys.readouterr().err == "error: --rows must be an integer, got many\n"


def test_print_config_is_a_configuration(capsys, tmp_path):
    text = printed(capsys, "fit", *TINY, "--sleep.n_passes=3", "--print_config")
    config = yaml.safe_load(text)
    assert config["sleep"]["n_passes"] == 3 and config["model"]["model"]["pattern"] == "AG"
    (tmp_path / "again.yaml").write_text(text)
    assert yaml.safe_load(printed(capsys, "fit", f"--config={tmp_path / 'again.yaml'}", "--print_config")) == config


def test_a_command_learns_its_own_options_alone(monkeypatch, capsys):
    learned, learn = [], SleepCLI.add_arguments_to_parser
    monkeypatch.setattr(SleepCLI, "add_arguments_to_parser", lambda *args: learned.append(1) or learn(*args))
    printed(capsys, "test", *TINY, "--print_config")
    assert learned == [1]


def test_n_passes_on_the_command_line_is_that_of_the_run(fit):
    one, three = (fit("--trainer.max_steps=2", f"--sleep.n_passes={n}", folder=f"n{n}") for n in (1, 3))
    assert (one["sleep"]["n_passes"], three["sleep"]["n_passes"]) == (1, 3)
    assert one["global_step"] == three["global_step"] == 2
    assert any(not torch.equal(one["state_dict"][k], three["state_dict"][k]) for k in one["state_dict"])


def test_the_same_command_gives_the_same_weights(fit):
    first, second = (fit("--trainer.max_steps=3", "--sleep.n_passes=2", folder=f) for f in ("a", "b"))
    assert all(torch.equal(first["state_dict"][k], second["state_dict"][k]) for k in first["state_dict"])


def test_a_checkpoint_gives_no_settings_and_no_code(trained, capsys):
    torch.save(trained | {"hyper_parameters": {"model": {"d_model": 256}}}, "settings.ckpt")
    main(["test", *TINY, "--ckpt_path=settings.ckpt"])
    assert re.search(r"test.*exact", capsys.readouterr().out)
    torch.save(trained | {"x": print}, "code.ckpt")
    with pytest.raises(SystemExit, match=r"^error: checkpoint .*code\.ckpt' must hold tensors and plain values alone$"):
        main(["test", *TINY, "--ckpt_path=code.ckpt"])


def test_a_fit_says_how_to_score_what_it_trained_and_random_weights_are_not_scored_without_a_word(fit, capsys, caplog):
    """In folders, too, whose names are an option's or a number's."""
    for folder in ("run", "-run", "1e-3", "1.5e3"):
        fit("--trainer.max_steps=1", folder=folder)
        _, _, said = caplog.records[-1].getMessage().partition("to score it: ")
        main(said.partition("lmsleep ")[2].split())
    assert "random" not in capsys.readouterr().err
    with pytest.warns(UserWarning, match="the weights are random"):
        main(["test", *TINY])


def test_weights_that_are_not_finite_are_read_by_no_command(trained):
    trained["state_dict"]["model.norm.weight"][0] = torch.nan
    torch.save(trained, "nan.ckpt")
    for command in (["fit", "--trainer.max_steps=2"], ["validate"], ["test"], ["predict"]):
        with pytest.raises(SystemExit, match=r"^error: model\.norm\.weight in the checkpoint must hold finite numbers"):
            main([command[0], *TINY, *command[1:], "--checkpoint.dirpath=other", "--ckpt_path=nan.ckpt"])
    with pytest.raises(SystemExit, match=r"^error: norm\.weight in nan\.ckpt must hold finite numbers"):
        main(["export", "--ckpt=nan.ckpt", "--out=model"])


ODD = [
    *(
        (key, [1])
        for key in ("model_config", "sleep", "lora", "callbacks", "loops", "optimizer_states", "lr_schedulers")
    ),
    ("loops", {"fit_loop": 1}),
    ("optimizer_states", 1),
    ("callbacks", {"LastCheckpoint": 1}),
    ("epoch", "x"),
    ("global_step", torch.ones(2)),
    ("pytorch-lightning_version", 3),
    ("pytorch-lightning_version", "x"),
]


def refused(content, commands=("fit", "test")):
    """What each of these commands says of a checkpoint."""
    torch.save(content, "odd.ckpt")
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main([command, *TINY, "--trainer.max_steps=2", "--checkpoint.dirpath=other", "--ckpt_path=odd.ckpt"])
        yield str(end.value.code)


@pytest.mark.parametrize(("key", "value"), ODD, ids=str)
def test_a_value_of_another_shape_in_a_checkpoint_is_one_sentence_with_file_and_key(trained, key, value):
    (said,) = refused(trained | {key: value}, ["fit"])  # which reads most of it
    assert re.match(rf"error: .*\b{key} in checkpoint '.*odd\.ckpt' must ", said)


@pytest.mark.parametrize("content", [{}, [1], torch.ones(2), 3, {"state_dict": {}}, {1: 2}], ids=str)
def test_a_file_of_tensors_that_is_no_checkpoint_is_one_sentence(content):
    assert all(re.match(r"error: checkpoint '.*odd\.ckpt' must be ", said) for said in refused(content))


def test_complex_weights_are_one_sentence(trained):
    weights = {name: x.to(torch.complex64) for name, x in trained["state_dict"].items()}
    assert all("must hold real numbers" in said for said in refused(trained | {"state_dict": weights}))


def test_a_folder_of_shards_is_neither_read_nor_written(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: --ckpt_path must be one file, .*, got '\.'$"):
        main(["test", *TINY, "--ckpt_path=."])
    trainer = SimpleNamespace(strategy=ModelParallelStrategy())
    with pytest.raises(ValueError, match=r"^checkpoints must be of one file, by --trainer\.strategy\.save_dist"):
        LastCheckpoint(str(tmp_path)).setup(trainer, None, "fit")


@pytest.mark.parametrize("weights", [3, {"model.norm.weight": 3}, [1]])
def test_weights_that_are_no_tensors_are_one_sentence(trained, weights):
    torch.save(trained | {"state_dict": weights}, "odd.ckpt")
    for command in (["fit", "--trainer.max_steps=2"], ["test"]):
        with pytest.raises(SystemExit, match=r"^error: (weights|state_dict) in .*checkpoint.* must be "):
            main([command[0], *TINY, *command[1:], "--checkpoint.dirpath=other", "--ckpt_path=odd.ckpt"])
    with pytest.raises(SystemExit, match=r"^error: "):
        main(["export", "--ckpt=odd.ckpt", "--out=model"])


def test_evaluating_with_another_n_must_be_asked_for(fit, capsys):
    fit("--trainer.max_steps=1", "--sleep.n_passes=2")
    validate = ["validate", *TINY, "--ckpt_path=run/last.ckpt", "--sleep.n_passes=4"]
    with pytest.raises(
        SystemExit, match=r"^error: --sleep\.n_passes must be 2, with which the checkpoint was trained, got 4"
    ):
        main(validate)
    main([*validate, "--sleep.allow_other_n=true"])
    assert re.search(r"val.*exact", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--model.model.pattern=AXG", "--model.model.pattern must be made of A (attention), "),
        ("--model.model.window_size=0", "--model.model.window_size must be 1 or more, got 0"),
        ("--model.model.n_heads=3", "--model.model.n_heads must divide d_model=16 unless head_dim is given, got 3"),
        ("--sleep.n_passes=0", "--sleep.n_passes must be 1 or more (the wake pass counts), got 0"),
        ("--sleep.eviction=soft", "soft"),
        ("--data.task.init_args.steps=-1", "--data.task.init_args.steps must be 0 or more, got -1"),
        ("--data.batch_size=0", "--data.batch_size must be 1 or more, got 0"),
        ("--seed_everything=4294967296", "--seed_everything must be from 0 to 2**32 - 1, got 4294967296"),
        ("--model.optimizer.muon_lr=-1", "--model.optimizer.muon_lr must be finite and 0 or more, got -1"),
        ("--model.optimizer.muon_lr=1e39", "muon_lr must be at most 10000, got 1e+39"),
        ("--model.optimizer.betas=null", "betas"),
        ("--model.optimizer.betas=[0.9]", "betas"),
        ("--model.optimizer.eps=-1", "eps must be finite and more than 0, got -1"),
        (f"--data.seed={2**64}", f"--data.seed must be at most {2**64 - 1}"),
        ("--data.no_such_key=1", "no_such_key"),
        ("--data.eval_rows=${data.batch_size", "--data.eval_rows refers to what cannot be had: no viable alternative"),
        (
            "--data.task.init_args.steps=${data.batch_size}",
            "--data.task.init_args.steps refers to what cannot be had: Interpolation key 'data.batch_size' not found",
        ),
    ],
)
def test_a_bad_value_ends_with_one_sentence(fit, capsys, tmp_path, argument, sentence):
    with pytest.raises(SystemExit) as end:
        fit("--trainer.max_steps=1", argument)
    message = f"{end.value.code} {capsys.readouterr().err}"
    assert end.value.code not in (0, None)
    assert sentence in message and "Traceback" not in message and message.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--trainer.max_steps=-1", "--trainer.max_steps must be set"),
        ("--trainer.max_steps=-2", ".*max_steps.* must be a non-negative integer or -1"),
        ("--trainer={max_steps: -1, max_time: 00:00:01:00}", "--trainer.max_steps must be set"),
        ("--trainer={max_steps: -1, max_epochs: -1, limit_train_batches: 2}", "--trainer.max_steps must be set"),
        ("--trainer.val_check_interval=0", "--trainer.val_check_interval must be more than 0, or null, got 0"),
        ("--trainer.accumulate_grad_batches=0", "--trainer.accumulate_grad_batches must be 1 or more, got 0"),
        (
            f"--trainer.accumulate_grad_batches={2**64}",
            "--trainer.accumulate_grad_batches must be at most 2147483647",
        ),
        ("--trainer.val_check_interval={}", "--trainer.val_check_interval must be more than 0, or null, got 0"),
        (f"--model.lora.rank={2**64}", "--model.lora.rank must be at most 2147483647, got 18446744073709551616"),
        ("--ckpt_path=hdfs2://a", "Protocol not known: hdfs2"),
        ("--ckpt_path=gs://a", "an address must be one that can be read and written here: "),
        ("--checkpoint.dirpath=gs://a", "an address must be one that can be read and written here: "),
        ("--ckpt_path=http://127.0.0.1:9/last.ckpt", "--ckpt_path must be a checkpoint on a disk, got 'http:"),
        ("--model.accelerate=graph", "--model.accelerate='graph' needs a CUDA device, got cpu"),
        ("--trainer.accelerator=tpu", "the settings of the trainer must fit together and this machine: .*torch_xla"),
        ("--trainer.precision=transformer-engine", "the settings of the trainer must fit .*: Requirement"),
        ("--checkpoint.dirpath=/proc/x", "the folder '/proc/x' cannot be made"),
        (
            "--ckpt_path=none.ckpt",
            "--ckpt_path must be a checkpoint of `lmsleep fit`, but there is no file 'none.ckpt'",
        ),
    ],
)
def test_a_run_that_cannot_start_ends_with_one_sentence_and_leaves_nothing(fit, tmp_path, argument, sentence):
    with pytest.raises(SystemExit, match=f"^error: {sentence}"):
        fit("--trainer.max_steps=1", argument)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_leads_to_itself_is_one_sentence(fit, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SystemExit, match=r"^error: '.*loop' cannot be used: "):
        fit("--trainer.max_steps=1", "--checkpoint.dirpath=loop")


@pytest.mark.parametrize("size", [0, 1000, -1000])
def test_a_checkpoint_that_was_cut_short_is_refused(trained_folder, tmp_path, size):
    (tmp_path / "short.ckpt").write_bytes((trained_folder / "last.ckpt").read_bytes()[:size])
    with pytest.raises(SystemExit, match=r"^error: checkpoint 'short.ckpt' is damaged or of another kind: .+"):
        main(["test", *TINY, "--ckpt_path=short.ckpt"])


def test_the_configuration_lies_beside_the_checkpoint(tmp_path):
    main(["fit", *TINY, "--trainer.max_steps=1", "--sleep.n_passes=2", "--checkpoint.dirpath=run/here"])
    assert yaml.safe_load((tmp_path / "run" / "here" / "config.yaml").read_text())["sleep"]["n_passes"] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fit", "--slep.n_passes=4"], "there is no option --slep.n_passes, but there is --sleep.n_passes"),
        (["fit", *TINY, "--model.model.patern=AG"], "there is no option .*patern, but there is --model.model.pattern"),
        (["fit", *TINY, "--model.lora.rank=x"], "--model.lora.rank must be an integer, got x"),
        (["fit", *TINY, "--model.lora.alpha=4"], "--model.lora.rank must be given"),
        (["fit", *TINY, "--data.task=TextQA"], "--data.task.init_args.train must be given"),
        (["fit", *TINY, "--data.task.init_args.steps=x"], "--data.task.init_args.steps must be an integer, got x"),
        (["fit", *TINY, "--sleep.eviction=soft"], "--sleep.eviction must be 'hard' or 'sliding', got soft"),
        (
            ["fit", *TINY, "--data.task=Rule111"],
            "--data.task must be the name of a class, got Rule111; there is Rule110",
        ),
        (["fit", *TINY, "--data.task=nope"], "--data.task must be the name of a class, got nope; there is .*TextQA"),
        (
            ["fit", *TINY, "--trainer.callbacks+=LearningCurv"],
            "--trainer.callbacks must be the name of a class, got LearningCurv; there is LearningCurve",
        ),
        (["fit", *TINY, "--trainer.max_step=3"], "there is no option --trainer.max_step, but there is .*max_steps"),
        (["fit", *TINY, "--sleep.n=3"], "there is no option --sleep.n"),
        (["demo", "--row=1"], "there is no option --row, but there is --rows"),
        (
            ["fit", *TINY, "--trainer.logger=nolive.Logger"],
            "--trainer.logger must be a class that can be imported, got nolive.Logger: No module named 'nolive'; "
            "PYTHONPATH=FOLDER says where it lies",
        ),
        (["demo", "--rws=1"], "there is no option --rws, but there is --rows"),
        (["chat"], "--model must be given"),
        (["export"], "--ckpt and --out must be given"),
        (["finetune", "--out=tuned"], "--model and --data must be given"),
        (["replay"], "bundle must be given"),
    ],
)
def test_an_argument_that_does_not_parse_is_one_sentence(capsys, arguments, sentence):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert re.fullmatch(f"error: {sentence}.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("content", ["", "- 1"])
def test_a_configuration_without_settings_is_one_sentence(capsys, tmp_path, content):
    (tmp_path / "empty.yaml").write_text(content)
    with pytest.raises(SystemExit, match="2"):
        main(["fit", f"--config={tmp_path}/empty.yaml"])
    assert capsys.readouterr().err.startswith("error: --config must name a file of settings, such as configs/")


def test_a_configuration_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "page.md").write_text("# Guide\na: b: c")
    with pytest.raises(SystemExit, match=r"^error: page\.md: mapping values are not allowed here at line 2, [^<]*$"):
        main(["fit", f"--config={tmp_path}/page.md"])
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    with pytest.raises(SystemExit, match=r"^error: .*x\.png: must be text in UTF-8, got the byte 0x89 at position 0$"):
        main(["fit", f"--config={tmp_path}/x.png"])


@pytest.mark.parametrize("section", ["model: 3", "sleep: 3", "sleep: [1]", "trainer: x", "checkpoint: no"])
def test_a_section_that_is_no_mapping_is_one_sentence(capsys, tmp_path, section):
    (tmp_path / "o.yaml").write_text(section)
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *TINY, f"--config={tmp_path}/o.yaml", "--print_config"])
    name, got = section.split(": ")
    said = f"error: {name} in o.yaml must have settings below it, got {yaml.safe_load(got)!r}\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "content", ["sleep:", "sleep:\nmodel:\n  #  model: 3", "data:\nmodel: {optimizer: {muon_lr: 1e-3}}"]
)
def test_a_section_whose_settings_are_commented_out_is_absent(capsys, tmp_path, content):
    words = ["fit", *TINY, "--sleep.n_passes=3", "--model.optimizer.muon_lr=1e-3", "--print_config"]
    before = printed(capsys, *words)
    (tmp_path / "o.yaml").write_text(content)
    assert printed(capsys, *words, f"--config={tmp_path}/o.yaml") == before


def test_a_file_of_settings_may_stand_for_a_section(capsys, tmp_path):
    (tmp_path / "sleep.yaml").write_text("n_passes: 5")
    (tmp_path / "o.yaml").write_text("sleep: sleep.yaml")
    shown = yaml.safe_load(printed(capsys, "fit", *TINY, f"--config={tmp_path}/o.yaml", "--print_config"))
    assert shown["sleep"]["n_passes"] == 5


def test_help_names_the_program_and_not_its_file(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lmsleep/__main__.py"])
    assert printed(capsys, "fit", "--help").startswith("usage: lmsleep ")


def test_a_refused_run_and_a_test_leave_the_configuration_of_the_trained_run(fit, tmp_path):
    fit("--trainer.max_steps=1", "--sleep.n_passes=2")
    trained = (tmp_path / "run" / "config.yaml").read_text()
    assert yaml.safe_load(trained)["sleep"]["n_passes"] == 2
    with pytest.raises(SystemExit, match=r"^error: --sleep\.n_passes must be 2"):
        fit("--trainer.max_steps=2", "--sleep.n_passes=3", "--ckpt_path=run/last.ckpt")
    other = ["--sleep.n_passes=3", "--sleep.allow_other_n=true", "--ckpt_path=run/last.ckpt"]
    main(["test", *TINY, "--trainer.default_root_dir=run", *other])
    with full_disk(1000), pytest.raises(SystemExit, match=r"run/\.probe\.ckpt' cannot be used: file too large$"):
        fit("--trainer.max_steps=2", "--sleep.n_passes=2", "--ckpt_path=run/last.ckpt")
    assert (tmp_path / "run" / "config.yaml").read_text() == trained


def test_a_configuration_that_does_not_fit_on_the_disk_leaves_the_old_one(fit, tmp_path, monkeypatch):
    fit("--trainer.max_steps=1")
    trained, save = (tmp_path / "run" / "config.yaml").read_text(), RunParser.save

    def saved(*args, **options):
        with full_disk(1000):
            save(*args, **options)

    monkeypatch.setattr(RunParser, "save", saved)
    with pytest.raises(SystemExit, match=r"^error: '.*/run/config\.yaml' cannot be used: file too large$"):
        fit("--trainer.max_steps=2", "--ckpt_path=run/last.ckpt")
    assert (tmp_path / "run" / "config.yaml").read_text() == trained
    assert sorted(os.listdir("run")) == ["config.yaml", "last.ckpt"]


SETTLE = ["--sleep.on_overflow=lmsleep.settle.Settle", "--sleep.on_overflow.threshold=0", "--sleep.on_overflow.most=3"]


def test_a_sleep_of_ones_own_trains_by_the_command_line(fit):
    """One that never settles makes three passes, as N = 3 does."""
    settled = fit("--trainer.max_steps=2", *SETTLE)
    plain = fit("--trainer.max_steps=2", "--sleep.n_passes=3", folder="n3")
    assert all(map(torch.equal, settled["state_dict"].values(), plain["state_dict"].values()))
    assert settled["sleep"]["on_overflow"] == "lmsleep.settle.Settle(threshold=0.0, most=3)"
    assert settled["sleep"]["n_passes"] == 1 and plain["sleep"]["on_overflow"] is None


def test_a_run_goes_on_with_the_sleep_that_it_was_trained_with(fit, tmp_path):
    fit("--trainer.max_steps=1", *SETTLE)
    resumed = fit(f"--config={tmp_path}/run/config.yaml", "--trainer.max_steps=2", "--ckpt_path=run/last.ckpt")
    assert resumed["global_step"] == 2
    for other in (["--sleep.n_passes=3"], [*SETTLE[:2], "--sleep.on_overflow.most=4"]):
        with pytest.raises(
            SystemExit, match=r"^error: --sleep\.(n_passes must be 1|on_overflow must be 'lmsleep\.settle)"
        ):
            fit("--trainer.max_steps=3", *other, "--ckpt_path=run/last.ckpt")


def test_a_session_says_that_it_sleeps_in_another_way_than_the_training(fit, tmp_path):
    fit("--trainer.max_steps=1", *SETTLE)
    main(["export", "--ckpt=run/last.ckpt", "--out=model"])
    with pytest.warns(UserWarning, match=r"^the model was trained with on_overflow lmsleep\.settle\.Settle\("):
        Session.from_pretrained(tmp_path / "model", n_passes=3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*SETTLE, "--sleep.n_passes=2"], "--sleep.n_passes must be left out beside on_overflow, got 2"),
        (
            [*SETTLE, "--sleep.on_overflow.most=0"],
            "--sleep.on_overflow.init_args.most must be 1 or more (the wake pass counts), got 0",
        ),
        (
            ["--sleep.on_overflow=lmsleep.settle.Setle"],
            "--sleep.on_overflow must be a function or a class that can be called: module 'lmsleep.settle' has no "
            "attribute 'Setle'",
        ),
        (
            [*SETTLE, "--sleep.on_overflow.mots=3"],
            "--sleep.on_overflow must be a function or a class that can be called: Option 'mots' is not accepted",
        ),
        ([*SETTLE, "--sleep.on_overflow.most=x"], "--sleep.on_overflow.init_args.most must be an integer, got x"),
    ],
)
def test_a_sleep_that_cannot_be_had_is_one_sentence(fit, capsys, words, sentence):
    with pytest.raises(SystemExit) as failed:
        fit("--trainer.max_steps=1", *words)
    assert (capsys.readouterr().err.strip() or str(failed.value)).startswith(f"error: {sentence}")


def test_a_loss_that_is_not_finite_is_one_sentence_and_so_is_its_replay(fit):
    sentence = r"^error: (loss|gradient) is not finite at step \d+ \(n_passes=1, seed=0\)"
    with pytest.raises(SystemExit, match=sentence) as failed:
        fit("--trainer.max_steps=3", "--model.model.embedding_std=1e38")
    said, command = re.split("; to repeat it: .*lmsleep ", str(failed.value))
    with pytest.raises(SystemExit) as repeated:
        main(command.split())
    assert str(repeated.value) == said


def test_what_does_not_fit_in_memory_is_one_sentence_that_says_what_to_lower(fit, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("lmsleep.training.SleepModule.training_step", full)
    with pytest.raises(SystemExit, match=r"^error: out of memory: lower data.batch_size .*"):
        fit("--trainer.max_steps=1")


def test_a_batch_is_evaluated_before_the_first_step(fit, monkeypatch):
    def full(*_):
        raise ValueError("too large")

    monkeypatch.setattr("lmsleep.training.SleepModule.validation_step", full)
    monkeypatch.setattr("lmsleep.training.SleepModule.training_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(SystemExit, match=r"^error: too large$"):
        fit("--trainer.max_steps=1")


@pytest.mark.parametrize("command", ["fit", "plan"])
def test_a_task_is_held_to_its_contract_before_a_run_writes_anything(monkeypatch, tmp_path, command):
    monkeypatch.setattr("lmsleep.tasks.Rule110.sequence_length", 20)
    with pytest.raises(SystemExit, match=r"^error: Rule110, rows of train: tokens must be sequence_length=20 a row"):
        main([command, *TINY, "--trainer.max_steps=4", "--checkpoint.dirpath=run"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["fit", "plan"])
def test_a_mixer_of_ones_own_that_breaks_its_contract_is_said_before_a_run(monkeypatch, tmp_path, command):
    """This one tells every token the last one, which a training would only find easy."""

    class Peeping(GatedDelta):
        def forward(self, x, state, cache, ctx):
            return super().forward(x + x[:, -1:], state, cache, ctx)

    monkeypatch.setitem(mixers.MIXERS, "P", ("peeping", Peeping))
    monkeypatch.setitem(mixers.MIXERS, "Q", ("quiet", type("Quiet", (GatedDelta,), {})))
    words = [command, *TINY, "--trainer.max_steps=4", "--checkpoint.dirpath=run"]
    with pytest.warns(UserWarning) as said:
        main([*words, "--model.model.pattern=APQ"])
    of_contract = [str(one.message) for one in said if "contract" in str(one.message)]
    rule = r"the mixer P \(peeping\) must keep to the contract of lmsleep\.model\.check_mixer: "
    assert len(of_contract) == 1
    assert re.fullmatch(rf"{rule}y of a token must not depend on later ones, got a difference of .*", of_contract[0])


def test_looking_at_a_mixer_of_ones_own_changes_no_number(fit, monkeypatch):
    monkeypatch.setitem(mixers.MIXERS, "Q", ("quiet", type("Quiet", (GatedDelta,), {})))
    built_in, own = (fit("--trainer.max_steps=2", f"--model.model.pattern={p}", folder=p) for p in ("AG", "AQ"))
    assert all(map(torch.equal, built_in["state_dict"].values(), own["state_dict"].values()))


def test_a_file_where_a_folder_belongs_is_one_sentence_before_the_first_step(fit, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr("lmsleep.training.SleepModule.training_step", lambda *_: pytest.fail("a step was taken"))
    monkeypatch.setattr("lmsleep.training.SleepModule.predict_step", lambda *_: pytest.fail("a row was answered"))
    curve = ["--trainer.callbacks+=lmsleep.training.LearningCurve", "--trainer.callbacks.path=file/curve.csv"]
    for command, arguments in (
        ("fit", ["--checkpoint.dirpath=file/run"]),
        ("fit", ["--checkpoint.dirpath=run", *curve]),
        ("predict", ["--trainer.default_root_dir=file/run"]),
    ):
        with pytest.raises(SystemExit, match=r"^error: '.*file.*' cannot be used: (not a directory|file exists)$"):
            main([command, *TINY, *(["--trainer.max_steps=1"] if command == "fit" else []), *arguments])


def test_a_folder_where_a_file_belongs_is_one_sentence_before_the_first_step(fit, monkeypatch):
    monkeypatch.setattr("lmsleep.training.SleepModule.training_step", lambda *_: pytest.fail("a step was taken"))
    monkeypatch.setattr("lmsleep.training.SleepModule.predict_step", lambda *_: pytest.fail("a row was answered"))
    Path("predictions.csv").mkdir()
    curve = ["--trainer.callbacks+=lmsleep.training.LearningCurve", "--trainer.callbacks.path=predictions.csv"]
    for command, arguments, name in (
        ("fit", ["--trainer.max_steps=1", *curve], "path of the learning curve"),
        ("predict", ["--trainer.default_root_dir=."], "path"),
    ):
        with pytest.raises(SystemExit, match=f"^error: {name} must be a regular file, got 'predictions.csv'$"):
            main([command, *TINY, *arguments])


def test_what_may_not_be_written_or_read_is_one_sentence_before_the_first_step(fit, trained, monkeypatch):
    """Root, who may do all, becomes somebody else for a while."""
    monkeypatch.setattr("lmsleep.training.SleepModule.training_step", lambda *_: pytest.fail("a step was taken"))
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    curve = "--trainer.callbacks+=lmsleep.training.LearningCurve"
    with TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        for name, mode in (("open", 0o777), ("locked", 0o555)):
            Path(place, name).mkdir()
            Path(place, name).chmod(mode)
        shutil.copy("run/last.ckpt", place)
        Path(place, "last.ckpt").chmod(0)
        os.chdir(place)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(pytest.fail.Exception, match="a step was taken"):
                fit("--trainer.max_steps=1", folder="open/a")
            for words, name in (
                (["--checkpoint.dirpath=locked"], ".*/locked/.lock"),
                (["--checkpoint.dirpath=locked/run"], ".*/locked/run"),
                ([curve, "--trainer.callbacks.path=locked/curve.csv"], "locked/curve.csv"),
                ([logger, "--trainer.logger.save_dir=locked"], ".*/locked/lightning_logs"),
                (["--ckpt_path=last.ckpt"], "last.ckpt"),
            ):
                with pytest.raises(SystemExit, match=f"^error: '{name}' cannot be used: permission denied$"):
                    fit("--trainer.max_steps=1", *words, folder="open/b")
        finally:
            os.seteuid(user)


@pytest.mark.parametrize(
    ("writer", "after", "sentence"),
    [
        ("torch.save", 3, "'.*last.ckpt' cannot be used: no space left on device"),
        ("pandas.DataFrame.to_csv", 2, "'run/curve.csv' cannot be used: no space left on device"),
        ("lightning.fabric.loggers.csv_logs._ExperimentWriter.save", 12, "no space left on device"),
    ],
)
def test_a_disk_that_fills_within_a_run_is_one_sentence_and_leaves_what_was_whole(
    fit, monkeypatch, tmp_path, writer, after, sentence
):
    """Steps 1, 2, ... each validate, write a row and a checkpoint; the disk is full from a call on, half of it done."""
    whole, calls = pkgutil.resolve_name(writer), []

    def write(self, file=None, *args, **kwargs):
        calls.append(1)
        if len(calls) <= after:
            return whole(self, file, *args, **kwargs) if file else whole(self)
        if isinstance(file, Path):
            file.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, write)
    logger = ["lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=run", "--trainer.log_every_n_steps=1"]
    with pytest.raises(SystemExit, match=f"^error: {sentence}$"):
        fit(
            "--trainer.max_steps=9",
            "--trainer.val_check_interval=1",
            "--trainer.callbacks+=lmsleep.training.LearningCurve",
            "--trainer.callbacks.path=run/curve.csv",
            f"--trainer.logger={logger[0]}",
            *logger[1:],
            "--trainer.logger.flush_logs_every_n_steps=1",
        )
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert 2 <= saved["global_step"] < 9 and all(x.isfinite().all() for x in saved["state_dict"].values())
    steps = [int(line.split(",")[0]) for line in (tmp_path / "run" / "curve.csv").read_text().splitlines()[1:]]
    assert saved["global_step"] in (steps[-1], steps[-1] - 1) and steps == list(range(1, len(steps) + 1))
    assert not [path.name for path in (tmp_path / "run").glob(".*.????????")]


def test_a_run_that_logs_at_no_step_runs(fit):
    assert fit("--trainer.max_steps=1", "--trainer.log_every_n_steps=0")["global_step"] == 1


def test_a_mistake_of_ours_keeps_its_traceback(fit, monkeypatch):
    def broken(*_):
        raise KeyError("ours")

    monkeypatch.setattr("lmsleep.training.SleepModule.training_step", broken)
    with pytest.raises(KeyError, match="ours"):
        fit("--trainer.max_steps=1")


@pytest.mark.parametrize(("command", "step"), [("predict", "predict_step"), ("test", "test_step")])
def test_sigterm_ends_every_command_within_a_batch(trained, monkeypatch, tmp_path, caplog, command, step):
    """And says nothing of going on, as only a training does."""
    rows, whole = [], getattr(SleepModule, step)

    def terminated(self, batch, batch_idx):
        rows.append(len(batch.tokens))
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, batch, batch_idx)

    monkeypatch.setattr(SleepModule, step, terminated)
    with pytest.raises(SystemExit, match="143"):
        main([command, *TINY, "--data.eval_rows=80", "--ckpt_path=run/last.ckpt", "--trainer.default_root_dir=out"])
    assert rows == [8] and not list(tmp_path.glob("out/*.csv"))
    assert [line for line in caplog.messages if line.startswith("stopped")] == ["stopped by SIGTERM"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["fit", "demo", "replay"])
def test_a_signal_in_a_training_ends_with_its_number(fit, tmp_path, monkeypatch, command, signum):
    """Lightning ends with 1 and 0: of a replay that would mean that the failure came again, and that it did not."""
    words = ["--pace=0"]
    if command == "replay":
        with pytest.raises(SystemExit) as failed:
            fit("--trainer.accumulate_grad_batches=2", "--model.model.embedding_std=1e38")
        words = str(failed.value).rpartition(" replay ")[2:]
    before, whole = signal.getsignal(signal.SIGINT), SleepModule.training_step

    def stopped(self, batch, batch_idx):
        os.kill(os.getpid(), signum)
        return whole(self, batch, batch_idx) * 0

    monkeypatch.setattr(SleepModule, "training_step", stopped)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as end:
            fit() if command == "fit" else main([command, *words])
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning hears no second one
    assert end.value.code == 128 + signum


def test_sigterm_saves_within_a_batch_and_the_run_goes_on(fit, tmp_path):
    """A process of its own, stopped at step 12; taken up again, it ends where a whole run ends."""
    steps = ["--trainer.max_steps=16", "--sleep.n_passes=2", "--trainer.val_check_interval=10"]
    late = ["--checkpoint.dirpath=killed", "--checkpoint.every_n_train_steps=100000"]  # nothing but SIGTERM saves
    stop = ["killing.EndOnce", "--trainer.callbacks.step=12", "--trainer.callbacks.mark=mark"]
    command = ["lmsleep", "fit", *TINY, *steps, *late, f"--trainer.callbacks+={stop[0]}", *stop[1:]]
    paths = os.pathsep.join([str(Path(__file__).parent / "figures"), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths}
    process = start(*command, folder=tmp_path, env=env, output=str(tmp_path / "said"))
    process.join(300)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 143 and "arning" not in said and "SIGTERMException" not in said
    assert re.search(r"^stopped by SIGTERM at step 1[23]; --ckpt_path=killed/last\.ckpt goes on$", said, re.M)
    stopped = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)
    assert 12 <= stopped["global_step"] <= 13
    rest = fit(*steps, "--ckpt_path=killed/last.ckpt")
    whole = fit(*steps, folder="whole")
    assert rest["global_step"] == whole["global_step"] == 16
    assert all(torch.equal(rest["state_dict"][k], whole["state_dict"][k]) for k in whole["state_dict"])
