"""What a user sees of the commands in a terminal of 100 columns: lines that fit, and nothing that says nothing."""

import os
import pty
import re
import termios
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from tests.programs import start

SMOKE = Path(__file__).parents[1] / "configs/experiment/smoke/rule110.yaml"
RUN = ["--config", str(SMOKE), "--sleep.n_passes=2", "--trainer.accelerator=cpu"]
SAYS_NOTHING = (
    r"Epoch|Training|Validation|Testing|v_num|DataLoader|warning|Seed set|GPU available|Tip:|weights_only|dirpath"
)
SAYS_NOTHING += "|Trainer.fit|Params|FLOPs"


def seen(folder, *words):
    """The lines of a command in such a terminal, those that were drawn over too."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (30, 100))
    left_out = ("COLUMNS", "PYTHONPATH")  # with which the commands that are printed begin, where it is set
    env = {name: value for name, value in os.environ.items() if name not in left_out} | {"TERM": "xterm"}
    run, said = start("lmsleep", *words, folder=folder, env=env, output=os.ttyname(its)), b""
    while ours in wait([ours, run.sentinel]):
        said += os.read(ours, 1 << 16)
    for side in (ours, its):
        os.close(side)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said.decode())
    run.join()
    assert run.exitcode == 0, text
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_every_command_fits_and_says_what_matters(tmp_path):
    fit = seen(tmp_path, "fit", *RUN, "--checkpoint.dirpath=run")
    end = r"loss=[\d.]+ \(val [\d.]+\), exact=[\d.]+ \(val [\d.]+\), tokens/s=[\d.]+k?$"
    assert re.search(rf"^train 20/20 .*{end}", [line for line in fit if line.startswith("train ")][-1])
    trained = [*RUN, "--ckpt_path=run/last.ckpt"]
    lines = {"fit": fit}
    lines |= {name: seen(tmp_path, name, *trained) for name in ("validate", "test", "predict")}
    lines["plan"] = seen(tmp_path, "plan", *RUN, "--steps=2")
    lines["bench train"] = seen(tmp_path, "bench", "train", *RUN, "--passes=[1]", "--variants=[none]", "--steps=2")
    for name, told in lines.items():
        assert max(map(len, told)) <= 100, name
        assert not re.search(SAYS_NOTHING, "\n".join(told)), name
    assert lines["predict"][-1] == "run/predictions.csv: 96 answers of 96 rows"
    assert any(line.startswith("predict 3/3 ") for line in lines["predict"])
    assert all(re.match(r"change_of_S/pass-2 0\.\d+$", lines[name][-1]) for name in ("validate", "test"))


@pytest.mark.parametrize("command", ["test", "predict"])
def test_what_matters_is_still_said(tmp_path, command):
    assert "warning: the weights are random: --ckpt_path names those of a run" in seen(tmp_path, command, *RUN)
