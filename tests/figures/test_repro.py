"""`make repro` asks DVC for the stages that a figure needs, and leaves params.yaml and dvc.lock as they were."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = """data@fig2a data@fig2b train_fig2a@2-0 train_fig2b@1-0 train_fig2b@10-0 train_fig2b@4-0 evaluate@fig2a
evaluate@fig2b table@fig2b figure@fig2a figure@fig2b measure@fig6 cost@fig6 ours@controls model report"""
# Stands for DVC: notes what it is asked, with the scale, and can fail or be slow at a stage.
DVC = """#!/bin/sh
[ "$1" = stage ] && { printf '%s\\n' $STAGES; exit; }
echo "$(sed -n 's/^scale: //p' params.yaml) $(cat dvc.lock) $*" >>asked
cell() { trap 'sleep 1; touch saved; exit' TERM; touch ready; while :; do sleep 0.1; done; }
case "$*" in *"$FAIL") exit 1;; *"$SLOW") cell & wait;; esac
echo "lock of $(sed -n 's/^scale: //p' params.yaml)" >dvc.lock
"""


@pytest.fixture
def start(tmp_path):
    """start(scale, *figures, **env): the script as a process, in a folder with a changed params.yaml."""
    shutil.copytree(ROOT / "configs/scale", tmp_path / "configs/scale")
    changed = (ROOT / "params.yaml").read_text().replace("max_steps: 1040", "max_steps: 20")
    (tmp_path / "params.yaml").write_text(changed)
    (tmp_path / "dvc.lock").write_text("lock\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dvc").write_text(DVC)
    (tmp_path / "bin/dvc").chmod(0o755)

    def start(scale, *figures, **env):
        env = {"STAGES": STAGES, "FAIL": "never", "SLOW": "never", "JOBS": "1"} | env
        env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"} | env
        words = ["sh", "configs/scale/repro", scale, *figures]
        return subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)

    return start


def asked(folder):
    lines = (folder / "asked").read_text().splitlines()
    return [re.sub(r".* repro ?(-q )?", "", line) for line in lines]


def test_everything_is_made_cells_with_most_passes_first(start, tmp_path):
    assert start("").wait() == 0
    assert asked(tmp_path) == [
        *("-s data@fig2b", "-s data@fig2a"),
        *("-s train_fig2b@10-0", "-s train_fig2b@4-0", "-s train_fig2a@2-0", "-s train_fig2b@1-0"),
        *("-s evaluate@fig2b", "-s evaluate@fig2a", ""),
    ]


@pytest.mark.parametrize(
    ("figures", "last", "cells"),
    [
        (["fig2a"], "figure@fig2a", ["fig2a"]),
        (["fig2a", "fig2b"], "figure@fig2a figure@fig2b", ["fig2a", "fig2b"]),
        (["fig6"], "cost@fig6", []),
        (["controls"], "ours@controls", []),
        (["fig9"], "fig9", []),
    ],
)
def test_some_figures_need_their_own_stages(start, tmp_path, figures, last, cells):
    assert start("", *figures).wait() == 0
    lines = asked(tmp_path)
    assert lines[-1] == last
    assert {re.search(r"fig2.", line).group() for line in lines[:-1]} == set(cells)


def test_another_scale_is_there_for_one_time_and_keeps_its_lock(start, tmp_path):
    params = (tmp_path / "params.yaml").read_text()
    for _ in range(2):
        assert start("smoke").wait() == 0
        assert (tmp_path / "params.yaml").read_text() == params and (tmp_path / "dvc.lock").read_text() == "lock\n"
    lines = (tmp_path / "asked").read_text().splitlines()
    assert all(line.startswith("smoke ") for line in lines)
    again = lines[len(lines) // 2 :]
    assert all("smoke lock of smoke" in line for line in again)
    assert (tmp_path / "runs/smoke.lock").read_text() == "lock of smoke\n"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_stage_that_fails_ends_it_and_all_is_put_back(start, tmp_path, jobs):
    params = (tmp_path / "params.yaml").read_text()
    assert start("smoke", FAIL="train_fig2b@4-0", JOBS=jobs).wait() != 0
    assert "evaluate" not in (tmp_path / "asked").read_text()
    assert (tmp_path / "params.yaml").read_text() == params and (tmp_path / "dvc.lock").read_text() == "lock\n"


def test_a_signal_ends_it_when_its_cells_have_saved_and_all_is_put_back(start, tmp_path):
    """To the process group, as `timeout` sends it. DVC itself does not wait for its cells."""
    params = (tmp_path / "params.yaml").read_text()
    process = start("smoke", SLOW="train_fig2b@4-0")
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM and (tmp_path / "saved").exists()
    assert (tmp_path / "params.yaml").read_text() == params and (tmp_path / "dvc.lock").read_text() == "lock\n"


def test_an_unknown_scale_is_one_sentence(start):
    process = start("huge")
    assert process.wait() == 1
    assert process.stderr.read() == "error: SCALE must be one of gpu mini paper smoke, got 'huge'\n"
