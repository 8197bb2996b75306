"""Every command of the README is run: here, or by continuous integration, which needs the same words."""

import os
import re
import shlex
from pathlib import Path

from tests.programs import start

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

QUICK = ["--trainer.max_steps=2", "--data.eval_rows=16", "--data.eval_batch_size=16"]
# command -> what makes it short enough for a test, in the order in which they are run
SHORTENED = {
    "lmsleep fit --config configs/experiment/rule110.yaml --sleep.n_passes=4": [
        *QUICK,
        "--trainer.val_check_interval=2",
    ],
    "python examples/birds.py": [],
    "lmsleep finetune --model tiny --data train.jsonl --out tuned --window 24 --adamw_lr 3e-3": QUICK,
    'lmsleep chat --model tuned --read notes.txt --ask "Which colour is the wren?"': ["--max_new_tokens=4"],
    "lmsleep demo --model results/gpu/model": ["--pace=0", "--rows=40"],
    "lmsleep doctor": [],
}
# run by continuous integration, in the words of .ci/run
IN_CI = {"make repro", "make test"}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def commands():
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_command_is_run_somewhere():
    assert set(commands()) == {*SHORTENED, *IN_CI}
    in_ci = (ROOT / ".ci" / "run").read_text()
    for words in IN_CI:
        assert re.search(rf"^{words}\b", in_ci, flags=re.M), words


def test_the_commands_run_one_after_the_other(tmp_path):
    for name in ("configs", "examples", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])}
    for command, more in SHORTENED.items():
        program, *words = [*shlex.split(command), *more]
        if program == "python":
            program = Path(words.pop(0)).stem
        run = start(program, *words, folder=tmp_path, env=env, output=str(tmp_path / "said"))
        run.join(300)
        assert run.exitcode == 0, f"{command}: {(tmp_path / 'said').read_text()[-4000:]}"


def test_the_example_runs_has_a_gradient_and_prints_what_stands_beside_it(capsys):
    (code,) = blocks("python")
    names: dict = {}
    exec(code, names)
    assert capsys.readouterr().out.strip() == code.strip().rpartition("# ")[2]
    assert all(p.grad is not None for p in names["model"].parameters())
