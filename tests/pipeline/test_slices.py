"""Slices: 20 + 20 steps are 40 steps in one go, whatever is cut, killed or damaged in between."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from lmsleep.cli import main as lmsleep
from lmsleep.pipeline.curves import main as draw_curves
from lmsleep.pipeline.slices import main as slices

RUN = ["config.yaml", "curve.csv", "last.ckpt", "log.txt"]  # what a run folder holds
CONFIG = Path(__file__).parents[2] / "configs/experiment/smoke/rule110.yaml"
LIMIT = 20_000  # bytes of a part, below the size of the optimizer state


def arguments(folder):
    """Two small cells; the one with two passes is killed at step 15 of its first slice."""
    return [
        *("--config", str(CONFIG), "--trainer.max_steps=40", "--data.eval_rows=32"),
        *("--trainer.callbacks+=killing.KillOnce", "--trainer.callbacks.step=15", "--trainer.callbacks.n_passes=2"),
        f"--trainer.callbacks.mark={folder / 'killed'}",
    ]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """The folder of two slices: `first` to step 20, in parts and bundled; `second` to the end."""
    folder = tmp_path_factory.mktemp("slices")
    common = ["--seconds", "600", "--jobs", "2", "--part-mb", str(LIMIT / 1e6), "--bundle"]
    first, second = (["--out", str(folder / name)] for name in ("first", "second"))
    grid = ["--grid", "n:sleep.n_passes=1,2", "--grid", "s:seed_everything,data.seed=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        with pytest.raises(SystemExit) as exit_of_first:
            slices([*common, *first, "--pause-at-step", "20", *arguments(folder), *grid])
        assert exit_of_first.value.code == 1  # one of its cells was killed
        slices([*common, *second, "--resume", str(folder / "first"), "--runs", str(folder / "runs")])
    return folder


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory):
    """Folders of plain `lmsleep fit` runs of 40 steps, by n_passes."""
    folders = {n: tmp_path_factory.mktemp(f"whole{n}") for n in (1, 2)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lmsleep"])
        for n, folder in folders.items():
            lmsleep(
                [
                    *("fit", "--config", str(CONFIG), "--trainer.max_steps=40", "--data.eval_rows=32"),
                    *(f"--sleep.n_passes={n}", "--seed_everything=3", "--data.seed=3"),
                    *("--trainer.logger=false", "--trainer.enable_progress_bar=false"),
                    *(f"--trainer.default_root_dir={folder}", f"--checkpoint.dirpath={folder}"),
                    "--trainer.callbacks+=lmsleep.training.LearningCurve",
                    f"--trainer.callbacks.path={folder / 'curve.csv'}",
                ]
            )
    torch.set_num_threads(threads)
    return folders


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(equal, a, b)) if isinstance(a, (list, tuple)) else a == b


@pytest.mark.parametrize("n_passes", [1, 2], ids=["paused", "killed"])
def test_two_slices_are_one_go_bit_for_bit(rehearsal, in_one_go, n_passes):
    run = rehearsal / "runs" / f"n{n_passes}-s3"
    whole, sliced = (torch.load(f / "last.ckpt", weights_only=True) for f in (in_one_go[n_passes], run))
    assert whole["global_step"] == 40
    for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "sleep", "model_config"):
        assert equal(whole[key], sliced[key]), key
    assert (run / "curve.csv").read_text() == (in_one_go[n_passes] / "curve.csv").read_text()
    curves = pd.read_csv(rehearsal / "second" / "curves.csv")
    assert curves[curves.cell == run.name].step.tolist() == [10, 20, 30, 40]


def test_the_summary_reports_all_cells_at_the_same_tokens(rehearsal):
    first, second = (json.loads((rehearsal / name / "summary.json").read_text()) for name in ("first", "second"))
    tokens_per_step = 8 * (2 * 12 + 2)
    assert {n: (c["step"], c["tokens"]) for n, c in first["cells"].items()} == {
        "n1-s3": (20, 20 * tokens_per_step),
        "n2-s3": (10, 10 * tokens_per_step),  # killed at 15, validated and saved at 10
    }
    assert [c["tokens"] for c in first["compared"].values()] == [10 * tokens_per_step] * 2
    assert [c["tokens"] for c in second["compared"].values()] == [40 * tokens_per_step] * 2
    assert first["slices"][0]["failed"] == {"n2-s3": "ended by SIGKILL"}
    assert [s["steps"] for s in second["slices"]] == [
        {"n1-s3": [0, 20], "n2-s3": [0, 10]},
        {"n1-s3": [20, 40], "n2-s3": [10, 40]},
    ]
    for entry in second["slices"]:
        assert entry["command"].startswith("lmsleep slices --seconds 600") and entry["device"] == "cpu"
        assert entry["torch"] == torch.__version__
        assert entry["seconds"] > 0 and (entry["commit"] is None or re.match(r"[0-9a-f]{40}", entry["commit"]))


def test_a_figure_can_be_drawn_of_the_runs_of_slices(rehearsal, tmp_path):
    baselines = tmp_path / "baselines.json"
    baselines.write_text(json.dumps({"majority": {"5": 0.3}, "chance": {"5": 0.25}}))
    out = tmp_path / "fig2b"
    draw_curves(["fig2b", "--runs", str(rehearsal / "runs"), "--data", str(tmp_path), "--out", str(out)])
    summary = json.loads((rehearsal / "second" / "summary.json").read_text())
    records = json.loads(out.with_suffix(".json").read_text())["val_exact"]
    assert [(r["n_passes"], r["value"]) for r in records] == [
        (int(name[1]), pytest.approx(row["exact"])) for name, row in sorted(summary["compared"].items())
    ]
    meta = json.loads(out.with_suffix(".meta.json").read_text())
    assert (meta["runs"], meta["hardware"], meta["torch"]) == (2, ["cpu"], [torch.__version__])


def test_a_cell_for_which_there_was_no_time_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lmsleep.pipeline.runner.LEAST_SECONDS", 1000.0)
    options = ["--seconds", "80", "--out", str(tmp_path / "out"), "--config", str(CONFIG)]
    slices([*options, "--grid", "n:sleep.n_passes=1"])
    assert "n1: no step was taken in the time there was" in capsys.readouterr().err


def test_the_log_of_a_run_goes_on_in_the_next_slice(rehearsal):
    log = (rehearsal / "runs/n1-s3/log.txt").read_text()
    assert log.count("Seed set to 3") == 2
    assert re.findall(r"^n1-s3: step (\d+)", log, re.MULTILINE) == ["10", "20", "30", "40"]


def test_no_part_exceeds_the_limit_and_no_temporary_file_stays(rehearsal):
    for name in ("first", "second"):
        files = sorted(path.name for path in (rehearsal / name).iterdir())
        parts = [f for f in files if f not in ("curves.csv", "summary.json")]
        assert parts == [f"state.tar.{i:03}" for i in range(len(parts))] and len(parts) > 1
        sizes = [(rehearsal / name / part).stat().st_size for part in parts]
        assert sizes[:-1] == [LIMIT] * (len(sizes) - 1) and 0 < sizes[-1] <= LIMIT
    assert sorted(p.name for p in rehearsal.iterdir()) == ["first", "killed", "runs", "second"]
    assert sorted(p.name for p in (rehearsal / "runs/n1-s3").iterdir()) == RUN


@pytest.fixture
def report_only(rehearsal, tmp_path):
    """report_only(source, name, *options): a command that restores and exports again, into tmp_path / name."""

    def report_only(source, name, *options):
        slices(["--seconds", "0", "--resume", str(source), "--out", str(tmp_path / name), *options])
        return tmp_path / name

    return report_only


def digests(folder):
    return json.loads((folder / "summary.json").read_text())["files"]


def test_export_is_deterministic_and_comes_as_single_files_too(rehearsal, report_only, tmp_path):
    again = report_only(rehearsal / "first", "again", "--part-mb", str(LIMIT / 1e6), "--bundle")
    assert digests(again) == digests(rehearsal / "first")
    single = report_only(rehearsal / "first", "single", "--runs", str(tmp_path / "runs"))
    assert {p.name for p in (single / "n1-s3").iterdir()} == {
        *("weights.safetensors", "optimizer.safetensors", "rest.safetensors", "rest.json"),
        *("curve.csv", "config.yaml", "log.txt"),
    }
    assert digests(report_only(single, "back", "--part-mb", str(LIMIT / 1e6), "--bundle")) == digests(again)


def test_finished_cells_may_leave_their_state_behind(rehearsal, report_only, tmp_path):
    none = report_only(rehearsal / "second", "none", "--finished", "none")
    assert {p.name for p in (none / "n1-s3").iterdir()} == {"curve.csv", "config.yaml", "log.txt"}
    weights = report_only(rehearsal / "second", "weights", "--finished", "weights", "--runs", str(tmp_path / "runs"))
    assert (weights / "n1-s3/weights.safetensors").stat().st_size > LIMIT
    restored = torch.load(tmp_path / "runs/n1-s3/last.ckpt", weights_only=True)["state_dict"]
    report_only(weights, "restored", "--runs", str(tmp_path / "more"))
    assert equal(torch.load(tmp_path / "more/n1-s3/last.ckpt", weights_only=True)["state_dict"], restored)
    # Without a checkpoint the curve still says that they are finished: nothing trains again.
    slices(["--seconds", "600", "--resume", str(none), "--out", str(tmp_path / "last")])
    last = json.loads((tmp_path / "last/summary.json").read_text())
    assert last["slices"][-1]["steps"] == {"n1-s3": [40, 40], "n2-s3": [40, 40]}


def damaged(folder):
    data = bytearray((folder / "state.tar.001").read_bytes())
    data[100] ^= 1
    (folder / "state.tar.001").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged, r"state\.tar\.001 is damaged: .*20,000 bytes.*; copy it again"),
        (lambda f: (f / "state.tar.001").unlink(), r"state\.tar\.001 must be there.*is missing; copy it again"),
        (lambda f: (f / "summary.json").write_text("{"), r"resume must name folders that `lmsleep slices` wrote"),
    ],
    ids=["damaged", "missing", "no summary"],
)
def test_a_damaged_export_is_one_sentence_and_leaves_nothing(rehearsal, report_only, tmp_path, damage, message):
    shutil.copytree(rehearsal / "first", tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as error:
        report_only(tmp_path / "copy", "out", "--runs", str(tmp_path / "runs"))
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "0"], "grid or resume must be given"),
        (["--seconds", "50"], "seconds must be 0 or at least 30 more than the reserve of 40, got 50"),
        (["--seconds", "600", "--jobs", "0"], "jobs must be 1 or more, got 0"),
        (["--seconds", "600", "--trainer.max_steps=3"], "arguments of new cells need a grid"),
        (["--seconds", "600", "--grid", "sleep.n_passes=1"], "grid must be given as label:key=value"),
        (["--seconds", "600", "--grid", "n:sleep.n_passes=a/b"], "grid must have labels and values of letters"),
        (["--seconds", "600", "--grid", "n:sleep.n_passes=1", "--config", "none.yaml"], "config must be a file"),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path, options, message):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        slices([*options, "--out", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_what_goes_on_must_be_what_began(rehearsal, report_only, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: cell n1-s3 of .* is there already"):
        slices(["--seconds", "0", "--out", str(tmp_path / "out"), "--resume", *[str(rehearsal / "first")] * 2])
    with pytest.raises(SystemExit, match=r"^error: cell n1-s3 must go on with the arguments"):
        report_only(rehearsal / "first", "out", "--grid", "n:sleep.n_passes=1", "--grid", "s:data.seed=3")
    with pytest.raises(SystemExit, match=r"^error: out must be a new or an empty folder"):
        slices(["--seconds", "0", "--out", str(rehearsal / "first"), "--resume", str(rehearsal / "first")])


@pytest.mark.slow
@pytest.mark.parametrize("sent", [None, signal.SIGTERM], ids=["deadline", "SIGTERM"])
def test_a_slice_ends_in_time_and_is_exported(tmp_path, sent):
    """A run without end, ended by the deadline with a last validation, or by SIGTERM at the step it was in."""
    out, started = tmp_path / "out", time.time()
    grid = ["--grid", "n:sleep.n_passes=1", "--trainer.val_check_interval=1000000", "--trainer.max_steps=1000000"]
    command = [sys.executable, "-m", "lmsleep", "slices", "--seconds", "60", "--reserve", "25", "--out", str(out)]
    with subprocess.Popen([*command, "--config", str(CONFIG), *grid]) as child:
        if sent:
            time.sleep(35)
            child.send_signal(sent)
    assert child.returncode == (128 + sent if sent else 0) and time.time() - started < 70
    (cell,) = json.loads((out / "summary.json").read_text())["cells"].values()
    assert cell["step"] > 0 and (cell["latest"] is None if sent else cell["latest"]["step"] == cell["step"])
