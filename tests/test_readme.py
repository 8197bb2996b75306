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
    "lmsleep demo --model results/gpu/model": ["--pace=0", "--rows=40"],
    "lmsleep doctor": [],
    "lmsleep fit --config configs/experiment/rule110.yaml --sleep.n_passes=4": [
        *QUICK,
        "--trainer.val_check_interval=2",
    ],
    "python examples/birds.py": [],
    "lmsleep finetune --model tiny --data train.jsonl --out tuned --window 24 --adamw_lr 3e-3": QUICK,
    'lmsleep chat --model tuned --read notes.txt --ask "Which colour is the wren?"': ["--max_new_tokens=4"],
}
# run by continuous integration, in the words of .ci/run
IN_CI = {"make repro", "make test"}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def commands():
    """Those of the blocks but for the clone, whose address is the reader's, and those named in sentences."""
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    named = re.findall(r"`((?:python|lmsleep) [^`]+)`", README)
    return [line for line in (*lines, *named) if line and not line.startswith("git clone ")]


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


def test_the_example_has_six_lines_runs_has_a_gradient_and_holds_what_stands_beside_it():
    (code,) = blocks("python")
    assert len(code.splitlines()) == 6
    exec(code, names := {})
    said, number = re.findall(r"# (out\S+): (\d+)$", code, flags=re.M)[0]
    assert eval(said, names) == int(number)
    assert all(p.grad is not None for p in names["model"].parameters())


def test_the_page_is_short_and_comes_to_its_usage_soon():
    """Addresses of links are neither words nor numbers, and bars of tables are no words."""
    assert len(README.split()) <= 900
    before = re.sub(r"\]\([^)]*\)|<!--.*?-->", "]", README.partition("## Use it")[0])
    assert len([word for word in before.split() if re.search(r"\w", word)]) <= 434
    assert len(re.findall(r"(?<![\w./-])\d+(?:[.,]\d+)*", before)) <= 50
