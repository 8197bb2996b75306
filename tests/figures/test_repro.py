"""`make repro` asks DVC for the stages that a figure needs, and leaves params.yaml and dvc.lock as they were."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = """data@fig2a data@fig2b train_fig2a@2-0 train_fig2b@1-0 train_fig2b@10-0 train_fig2b@4-0 evaluate@fig2a
evaluate@fig2b table@fig2b figure@fig2a figure@fig2b measure@fig6 cost@fig6 probe@probe held@probe ours@controls model
report"""
# Stands for DVC: notes what it is asked, with the scale, and can fail or be slow at a stage.
DVC = """#!/bin/sh
[ "$1" = stage ] && { printf '%s\\n' $STAGES; exit; }
[ "$1" = status ] && { echo "$*" >>looked; exit "$DUE"; }
echo "$(sed -n 's/^scale: //p' params.yaml) $(cat dvc.lock 2>/dev/null) $*" >>asked
cell() { trap 'sleep 1; touch saved; exit' TERM; touch ready; while :; do sleep 0.1; done; }
case "$*" in *"$FAIL") exit 1;; *"$SLOW") cell & wait;; esac
echo "lock of $(sed -n 's/^scale: //p' params.yaml)" >dvc.lock
"""


@pytest.fixture
def start(tmp_path):
    """start(scale, *figures, script="repro", **env): the script as a process, in a folder with another params.yaml."""
    shutil.copytree(ROOT / "configs/scale", tmp_path / "configs/scale")
    changed = (ROOT / "params.yaml").read_text().replace("max_steps: 1040", "max_steps: 20")
    (tmp_path / "params.yaml").write_text(changed)
    (tmp_path / "dvc.lock").write_text("lock\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dvc").write_text(DVC)
    (tmp_path / "bin/dvc").chmod(0o755)

    def start(*args, script="repro", **env):
        env = {"STAGES": STAGES, "FAIL": "never", "SLOW": "never", "JOBS": "1", "DUE": "1"} | env
        env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"} | env
        words = ["sh", f"configs/scale/{script}", *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A signal that is ignored from the start, as HUP under nohup, cannot be trapped by a shell.
        heard = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
        return subprocess.Popen(words, cwd=tmp_path, env=env, start_new_session=True, preexec_fn=heard, **pipes)

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


@pytest.mark.parametrize(("figures", "of"), [([], ""), (["fig2a"], " --with-deps figure@fig2a")])
def test_where_nothing_is_due_one_look_is_enough(start, tmp_path, figures, of):
    assert start("", *figures, DUE="0").wait() == 0
    assert (tmp_path / "looked").read_text() == f"status -q{of}\n"
    assert asked(tmp_path) == [of.removeprefix(" --with-deps ")]
    assert start("", *figures, DUE="255").wait() == 0  # DVC could not say
    assert "-s train_fig2a@2-0" in asked(tmp_path)


@pytest.mark.parametrize(("scale", "cells"), [("smoke", None), ("mini", None), ("gpu", "1"), ("paper", "1")])
def test_runs_share_the_cores_but_not_a_gpu(start, tmp_path, scale, cells):
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # which nproc obeys
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True, env=env).stdout.strip()
    said = start(scale, JOBS="").communicate()[0]
    assert f"data: 2 stages, {cores} at a time" in said and f"train: 4 stages, {cells or cores} at a time" in said
    said = start(scale, JOBS="3").communicate()[0]
    assert "data: 2 stages, 3 at a time" in said and "train: 4 stages, 3 at a time" in said
    shutil.copy(ROOT / f"configs/scale/{scale}.yaml", tmp_path / "params.yaml")
    assert f"train: 4 stages, {cells or cores} at a time" in start("", JOBS="").communicate()[0]


def test_the_stages_of_a_kind_are_counted_where_there_are_some(start):
    said = start("", "fig2a", JOBS="2").communicate()[0]
    assert said.splitlines() == ["data: 1 stage", "train: 1 stage", "evaluate: 1 stage"]
    said = start("smoke", "fig2a", JOBS="2").communicate()[0]  # under which DVC is quiet
    assert said.splitlines()[-3:] == ["evaluate: 1 stage", "the rest: one at a time", "the result is in results/smoke"]
    assert start("smoke", "fig2a", DUE="0").communicate()[0] == "the result is in results/smoke\n"


@pytest.mark.parametrize("jobs", ["0", "-1", "abc", "2 3", "01"])
def test_jobs_are_a_number(start, jobs):
    error = f"error: JOBS must be a number of at least 1, got '{jobs}'\n"
    assert start("smoke", JOBS=jobs).communicate() == ("", error)


def test_the_scale_of_params_may_be_quoted_or_explained(start, tmp_path):
    text = (tmp_path / "params.yaml").read_text()
    for scale in ('"gpu"', "gpu  # mine", "'gpu'"):
        (tmp_path / "params.yaml").write_text(re.sub(r"^scale: .*", f"scale: {scale}", text, flags=re.M))
        assert "train: 4 stages, 1 at a time" in start("", JOBS="").communicate()[0]


def test_arms_of_two_tasks_are_told_apart(start, tmp_path):
    stages = f"{STAGES} {' '.join(f'train_{f}@n4-0 evaluate@{f} figure@{f}' for f in ('arms', 'arms_depo'))}"
    for figure in ("arms", "arms_depo"):
        assert start("", figure, STAGES=stages).wait() == 0
        assert asked(tmp_path) == [f"-s train_{figure}@n4-0", f"-s evaluate@{figure}", f"figure@{figure}"]
        (tmp_path / "asked").unlink()


@pytest.mark.parametrize(
    ("figures", "last", "cells"),
    [
        (["fig2a"], "figure@fig2a", ["fig2a"]),
        (["fig2a", "fig2b"], "figure@fig2a figure@fig2b", ["fig2a", "fig2b"]),
        (["fig6"], "cost@fig6", []),
        (["controls"], "ours@controls", []),
        (["controls", "probe"], "ours@controls held@probe", []),
        (["data@fig2a", "fig6"], "data@fig2a cost@fig6", []),
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


def until_ready(process, folder):
    while not (folder / "ready").exists():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_when_its_cells_have_saved_and_all_is_put_back(start, tmp_path, sent):
    """To the process group, as `timeout` and a terminal that closes send it. DVC itself does not wait for its cells."""
    params = (tmp_path / "params.yaml").read_text()
    process = start("smoke", SLOW="train_fig2b@4-0")
    until_ready(process, tmp_path)
    os.killpg(process.pid, sent)
    assert process.wait(timeout=20) == 128 + sent
    assert (tmp_path / "saved").exists() or sent == signal.SIGHUP  # of which a cell knows nothing
    assert (tmp_path / "params.yaml").read_text() == params and (tmp_path / "dvc.lock").read_text() == "lock\n"


def test_after_a_kill_every_scale_is_refused_until_all_is_put_back(start, tmp_path):
    params = (tmp_path / "params.yaml").read_text()
    process = start("smoke", SLOW="train_fig2b@4-0")
    until_ready(process, tmp_path)
    during = (tmp_path / "asked").read_text()
    for scale in ("", "gpu"):
        other = start(scale)
        assert other.wait() == 1 and "another scale is in use, or was left by a kill" in other.stderr.read()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = start("")
    assert again.wait() == 1
    words = re.search("'(mv .*)'", again.stderr.read())
    assert words and (tmp_path / "asked").read_text() == during
    subprocess.run(words.group(1), shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "params.yaml").read_text() == params and (tmp_path / "dvc.lock").read_text() == "lock\n"
    assert start("").wait() == 0


def test_a_project_without_a_lock_has_none_afterwards(start, tmp_path):
    (tmp_path / "dvc.lock").unlink()
    process = start("smoke", "fig6", STAGES="data@fig2a cost@fig6")
    assert process.wait() == 0 and "cp:" not in process.stderr.read()
    assert not (tmp_path / "dvc.lock").exists() and (tmp_path / "runs/smoke.lock").exists()


@pytest.mark.parametrize(("figures", "place"), [([], "results/smoke.html"), (["fig2a"], "results/smoke")])
def test_another_scale_ends_with_the_place_of_its_result(start, figures, place):
    assert start("smoke", *figures).communicate()[0].splitlines()[-1] == f"the result is in {place}"


@pytest.mark.parametrize("scale", ["", "smoke"])
def test_an_unknown_figure_is_one_sentence_before_anything_is_made(start, tmp_path, scale):
    process = start(scale, "fig2a", "fig9")
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "") and not (tmp_path / "asked").exists()
    assert err == "error: FIGURES must be some of fig2a fig2b fig6 probe controls, or stages of dvc.yaml, got 'fig9'\n"
    assert not (tmp_path / "runs/.scale").exists()


def test_an_unknown_scale_is_one_sentence(start):
    process = start("huge")
    assert process.wait() == 1
    assert process.stderr.read() == "error: SCALE must be one of gpu mini paper smoke, got 'huge'\n"


def test_a_job_that_gets_a_signal_ends_when_its_cell_has_saved(start, tmp_path):
    """SLURM kills what a job has left when its first process ends."""
    process = start("-s", "train_fig2b@4-0", script="wait-and-repro", SLOW="train_fig2b@4-0")
    until_ready(process, tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM and (tmp_path / "saved").exists()


PIPELINE = """stages:
  data: {cmd: sh -c 'echo made >>times; sleep 2; echo x >data', outs: [data]}
  held: {cmd: sh -c 'echo made >>times; until test -e go; do sleep 0.1; done; echo x >held', outs: [held]}
  broken: {cmd: sh -c 'echo tried >>times; echo sorry >&2; exit 3'}
"""


@pytest.fixture(scope="module")
def initialised(tmp_path_factory):
    """What DVC makes for a new repository."""
    folder = tmp_path_factory.mktemp("new")
    program, env = Path(sys.executable).parent / "dvc", os.environ | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run([program, "init", "-q", "--no-scm"], cwd=folder, env=env, check=True)
    return folder / ".dvc"


@pytest.fixture
def repro(initialised, tmp_path):
    """repro(stage): the script that waits, as a process, in a repository of its own. The file `ended` is there when DVC
    has ended once."""
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dvc").write_text(
        f'#!/bin/sh\n{Path(sys.executable).parent}/dvc "$@"; set $?; touch ended; exit $1'
    )
    (tmp_path / "bin/dvc").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    shutil.copytree(initialised, tmp_path / ".dvc")
    command, pipe = ["sh", str(ROOT / "configs/scale/wait-and-repro")], subprocess.PIPE
    return lambda *args: subprocess.Popen([*command, *args], cwd=tmp_path, env=env, stderr=pipe, text=True)


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_two_jobs_that_share_a_stage_wait_for_each_other(repro, tmp_path, quiet):
    jobs = [repro(*quiet, "-s", "data") for _ in range(2)]
    assert [(job.communicate(timeout=60)[1], job.returncode) for job in jobs] == [("", 0)] * 2
    assert (tmp_path / "data").exists() and (tmp_path / "times").read_text() == "made\n"


def test_a_stage_that_fails_is_not_tried_again_and_says_why(repro, tmp_path):
    job = repro("-q", "-s", "broken")
    assert "sorry" in job.communicate(timeout=60)[1] and job.returncode
    assert (tmp_path / "times").read_text() == "tried\n"


def test_a_job_that_waits_ends_at_a_signal(repro, tmp_path):
    def until_there(name):
        while not (tmp_path / name).exists():
            assert working.poll() is None
            time.sleep(0.01)

    working = repro("-s", "held")
    until_there("times")
    waiting = repro("-s", "held")
    until_there("ended")  # DVC has found the stage at work
    waiting.terminate()
    assert "is busy" in waiting.communicate(timeout=60)[1] and waiting.returncode == 128 + signal.SIGTERM
    (tmp_path / "go").touch()
    assert working.wait(timeout=60) == 0
