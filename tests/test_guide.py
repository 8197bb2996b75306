"""Every command of the guide is run: in the order of the page and made short, or read by its parser where what it needs
is not here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmsleep.hub import tokenizer_files

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/guide.md").read_text()
FEW = "--trainer.max_steps=2 --trainer.val_check_interval=2 --data.eval_rows=16 --data.eval_batch_size=16"
# What makes a command short, by how it begins; the first that fits.
SHORT = {
    "lmsleep fit --config configs/experiment/paper/": "--print_config",
    "lmsleep plan --config configs/experiment/paper/gsm": "--print_config",  # wants the published weights
    "lmsleep plan --config configs/experiment/paper/": "--device meta",
    "lmsleep plan": "--data.batch_size=4",
    "lmsleep fit": FEW,
    "lmsleep test": "--data.eval_rows=16 --data.eval_batch_size=16",
    "lmsleep chat": "--max_new_tokens=2 </dev/null",
    "PYTHONPATH=examples lmsleep fit": FEW,
    "PYTHONPATH=examples LMSLEEP_PLUGINS=hebbian_rule lmsleep fit": FEW,
    "python examples/hebbian_rule.py fit": FEW,
}
# The folder of a run that begins.
BEGINS = r"^(?!.*--ckpt_path)(?:.*finetune .*--out (\S+)|lmsleep fit .*--checkpoint.dirpath=(\S+))"
# Run by others, or by nobody here, and why.
ELSEWHERE = {
    "make repro|timeout -s TERM 540 make repro": "tests/figures/test_repro.py, and continuous integration",
    "python -m lmsleep.figures": "tests/figures/test_resume.py",
    "dvc |mkdir -p runs && cp |cp runs/": "needs a repository of its own: tests/figures/test_dvc.py",
    "hf download|pip install": "needs the network",
    'python -c "import lmsleep.hf': "needs lm-eval: tests/hf",
    "#!|export PATH|cell=|srun": "needs SLURM",
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, flags=re.M | re.S)


def commands():
    """Every command, on one line, without its comment."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"\s+#\s.*$", "", line).strip() for line in lines) if line]


def elsewhere(command):
    return any(re.match(pattern, command) for pattern in ELSEWHERE)


def test_no_section_stands_twice_and_the_list_names_all():
    sections = re.findall(r"^## (.+)$", GUIDE, flags=re.M)
    assert len(set(sections)) == len(sections)
    assert re.findall(r"^\* \[(.+)\]\(#", GUIDE.partition("\n## ")[0], flags=re.M) == sections


def test_most_commands_are_run_here():
    assert sum(not elsewhere(command) for command in commands()) > 20
    assert all(any(re.match(pattern, command) for command in commands()) for pattern in ELSEWHERE)


def test_a_session_reads_is_asked_saved_loaded_and_forked_as_the_page_says(build, tmp_path, monkeypatch, capsys):
    code = next(block for block in blocks("python") if "session.read(" in block)
    monkeypatch.chdir(tmp_path)
    task = {"class_path": "lmsleep.tasks.TextQA", "init_args": {"question": "Q: {question} A:"}}
    speaker = build("AG", vocab_size=257, dtype=torch.float32, window_size=40)
    speaker.save_pretrained("runs/qa/model", trained={"task": task}, files=tokenizer_files("bytes"))
    Path("notes.txt").write_text("The wren by the mill is blue. The mole is pink.")
    exec(code.replace('wren?")', 'wren?", 9)'), page := {})
    asked = page["session"]
    assert asked.prompter.prompts("Why?") == ["Q: Why? A:"] and Path("notes.memory").is_file()
    said = [page["answer"](f"The wren by the mill is {colour}.") for colour in ("red", "green")]
    assert page["tokens"].shape == (1, 8)
    assert capsys.readouterr().out.endswith(" ".join(said) + "\n")


def test_a_module_of_ones_own_sleeps_as_the_page_says():
    """Against its passes written out."""
    code = next(block for block in blocks("python") if "torch.nn.GRU" in block)
    torch.manual_seed(0)
    exec(code, page := {})
    S = torch.zeros(1, 2, 16)
    for h in page["embed"](page["tokens"][:, :12]).split(6, dim=1):
        for _ in range(3):
            h, S = page["rule"](h, S)
    last = page["tokens"][:, 12:]
    h, S = page["rule"](page["embed"](last), S)
    torch.testing.assert_close(page["S"], S)
    logits = page["head"](h).flatten(0, 1)
    torch.testing.assert_close(page["loss"], torch.nn.functional.cross_entropy(logits, last.flatten()))
    assert page["embed"].weight.grad[page["tokens"][:, 0]].any()


def test_a_reading_goes_on_as_the_page_says():
    code = next(block for block in blocks("python") if "fast_weights=" in block)
    exec(code, page := {})
    whole = page["read_windows"](page["model"], page["tokens"], n_passes=4)
    assert all(map(torch.equal, page["then"].fast_weights.states, whole.fast_weights.states))


@pytest.mark.slow
def test_the_commands_run_one_after_the_other(tmp_path):
    for name in ("configs", "examples", "results", "params.yaml", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    for name, words in (("lmsleep", "-m lmsleep"), ("python", "")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    failed = []
    for command in (command for command in commands() if not elsewhere(command)):
        more = next((more for start, more in SHORT.items() if command.startswith(start)), "")
        if "--ckpt_path" in command and " fit " in command:
            more = more.replace("max_steps=2", "max_steps=4")
        if anew := re.search(BEGINS, command):
            shutil.rmtree(tmp_path / (anew[1] or anew[2]), ignore_errors=True)
        words = ["bash", "-c", f"{command} {more}"]
        done = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        failed += [f"{words[2]}: {done.stdout[-1500:]}{done.stderr[-1500:]}"] if done.returncode else []
    assert not failed, "\n\n".join(failed)
    exact, commonest = re.findall(r"\| all \| 100 \| (\S+) \| (\S+)", (tmp_path / "tuned/README.md").read_text())[0]
    assert float(exact) > 0.9 and float(commonest) < 0.5
