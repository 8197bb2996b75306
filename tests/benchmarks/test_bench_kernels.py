"""What the comparison of kernels says: a way is timed if it is the definition, and what cannot run does not end it."""

import importlib.util
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.kernels import measure as kernels
from benchmarks.kernels.job import Job, Subject, Way
from benchmarks.kernels.jobs import JOBS

from lmsleep.model import HybridConfig

ROOT = Path(__file__).parents[2]
RULE110 = ROOT / "configs" / "experiment" / "smoke" / "rule110.yaml"
CONFIG = HybridConfig(vocab_size=5, d_model=32, n_heads=2, window_size=6)
SUBJECT = Subject(CONFIG, 3, torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Nothing is compiled, which takes seconds: of `torch.compile` the table has only to ask."""
    monkeypatch.setattr(torch, "compile", lambda run, dynamic: run)


def measured(monkeypatch, ways, end=float("inf")):
    job = Job(lambda: [torch.rand(4, 3, requires_grad=True)], lambda x: [x * x], lambda x: [x.square()], ways)
    monkeypatch.setitem(JOBS, "square", lambda _: job)
    return {row["way"]: row for row in kernels.measure(SUBJECT, ["square"], 1, end)}


@pytest.mark.parametrize("name", JOBS)
def test_our_ways_and_torch_compute_the_definition(name):
    torch.manual_seed(0)
    job = JOBS[name](SUBJECT)
    for run in (job.torch, *(way.load() for key, way in job.ways.items() if key == "ours")):
        error, moved = kernels.compare(job, run)
        assert error < 1e-5
        assert moved >= 2 * sum(x.nbytes for x in job.make())


def test_a_wrong_way_is_not_timed_and_a_broken_one_does_not_end_the_table(monkeypatch):
    def breaks(x):
        raise RuntimeError("no such kernel\nand more")

    ways = {"wrong": Way(lambda x: [x * x + x]), "nan": Way(lambda x: [x * x * torch.nan]), "broken": Way(breaks)}
    ways |= {"wide": Way(lambda x: [(x * x)[None]]), "away": Way(lambda f, x: [f(x)], ("nowhere.ops:f",))}
    rows = measured(monkeypatch, {**ways, "right": Way(lambda f, x: [f(x, 2)], ("torch:pow",))})
    assert {way for way, row in rows.items() if row["both_us"]} >= {"torch", "right", "torch.compile"}
    assert all(row["both_us"] is None for way, row in rows.items() if way in ways)
    assert rows["wrong"]["why_not"].startswith("ValueError: its error must be at most")
    assert rows["nan"]["why_not"].startswith("ValueError: its error must be at most")
    assert rows["wide"]["why_not"].startswith("RuntimeError: Mismatch in shape")
    assert rows["broken"]["why_not"] == "RuntimeError: no such kernel"
    assert rows["away"]["why_not"] == "not installed: nowhere"


def test_nothing_is_begun_after_its_time(monkeypatch):
    rows = measured(monkeypatch, {}, end=0.0)
    assert {row["why_not"] for row in rows.values()} == {"TimeoutError: not begun, the seconds were over"}


def test_prints_a_table_and_writes_where_and_what(tmp_path, capsys):
    options = [f"--config={RULE110}", "--jobs=[norm,L2 norm]", "--repeats=1", f"--out={tmp_path / 'x.json'}"]
    kernels.main(options)
    said = json.loads((tmp_path / "x.json").read_text())
    assert said["run"] == "rule110.yaml"
    assert said["device"].startswith("CPU")
    here = {name: version is not None for name, version in said["packages"].items()}
    assert here["liger-kernel"] is (importlib.util.find_spec("liger_kernel") is not None)
    rows = {(row["job"], row["way"]): row for row in said["rows"]}
    assert {job for job, _ in rows} == {"norm", "L2 norm"}
    ours = rows["norm", "ours"]
    assert ours["timed"] == "clock"
    assert min(ours["forward_us"], ours["both_us"]) > 0
    if not here["liger-kernel"]:
        assert rows["norm", "liger-kernel"]["why_not"] == "not installed: liger_kernel"
    assert "not installed" in capsys.readouterr().out or all(here.values())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--jobs=[norm,abacus]", "jobs must be some of add + norm in float32, add + norm, norm"),
        ("--repeats=0", "repeats must be 1 or more, got 0"),
        ("--out=.", "out must be a regular file, got '.'"),
        ("--out=none/table", "out must lie in a folder that exists, got 'none/table'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(argument, message, monkeypatch):
    monkeypatch.setattr(kernels, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match=f"^error: {re.escape(message)}"):
        kernels.main([f"--config={RULE110}", argument])


def test_it_is_a_program_of_a_checkout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks.kernels", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("benchmarks.kernels", run_name="__main__", alter_sys=True)
    said = capsys.readouterr().out
    assert "python -m benchmarks.kernels" in said and "--jobs" in said
