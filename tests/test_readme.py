"""Every command of the README is run: here, or by continuous integration, which needs the same words."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

# command -> what makes it short enough for a test
SHORTENED = {
    "lmsleep fit --config configs/experiment/rule110.yaml --sleep.n_passes=4": [
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
        "--data.eval_rows=16",
        "--data.eval_batch_size=16",
        "--trainer.enable_progress_bar=false",
    ],
    "lmsleep demo --model results/mini/model": ["--pace=0"],
    "lmsleep doctor": [],
}
# run by continuous integration, in the words of .ci/run
IN_CI = {"make repro": "make repro", "make test": "make test"}
ACTIVATES = "source .venv/bin/activate"  # tests run within
INSTALLS_KERNELS = "pip install --no-build-isolation --no-cache-dir -e '.[cuda]'"  # needs a GPU machine's compiler


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def commands():
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_command_is_run_somewhere():
    assert set(commands()) == {*SHORTENED, *IN_CI, ACTIVATES, INSTALLS_KERNELS}
    in_ci = (ROOT / ".ci" / "run").read_text()
    for words in IN_CI.values():
        assert re.search(rf"^{words}\b", in_ci, flags=re.M), words
    makefile = (ROOT / "Makefile").read_text()
    assert INSTALLS_KERNELS.removeprefix("pip ").replace("install", "install -q", 1) in makefile


@pytest.mark.parametrize("command", SHORTENED)
def test_the_command_runs(command, tmp_path):
    words = [sys.executable, "-m", *command.split(), *SHORTENED[command]]
    if "fit" in words:
        words.append(f"--trainer.default_root_dir={tmp_path}")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_example_runs_and_has_a_gradient():
    (code,) = blocks("python")
    names: dict = {}
    exec(code, names)
    assert names["reading"].loss.isfinite()
    assert all(p.grad is not None for p in names["model"].parameters())
