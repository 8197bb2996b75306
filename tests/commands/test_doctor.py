"""The doctor's words on this machine, and on others that are made up."""

import json
import os
import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dvc.repo import Repo

from lmsleep import cli
from lmsleep.commands import doctor
from lmsleep.ops.backend import Choice
from lmsleep.tensors import threads

pytestmark = pytest.mark.usefixtures("empty_folder")  # no checkout, of which there is more to say


def report(capsys):
    cli.main(["doctor"])
    return capsys.readouterr().out


def test_reports_every_op_and_package_and_returns(capsys):
    words = report(capsys)
    assert f"torch {torch.__version__}" in words
    for op in ("delta_layer", "gated_delta", "ssd", "short_conv", "dynamic_conv"):
        assert op in words
    for package in doctor.PACKAGES:
        assert package.name.split("-")[0] in words


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
def test_nothing_is_missing_on_a_cpu(capsys):
    words = " ".join(report(capsys).split())  # without the breaks of lines, which a long name of torch moves
    assert "no CUDA device: everything runs on the CPU" in words
    assert "Nothing is missing for the CPU" in words
    assert "pip install" not in words.split("Backends")[1].split("Nothing is missing")[1]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    table = {"gated_delta": Choice("triton", {"fla": "could run, triton is preferred"})}
    above = {"gated_delta": Choice("fla", {"triton": "could run, fla is preferred"})}
    monkeypatch.setattr(doctor, "machine", lambda: ["a machine"])
    other = {"gated_delta": Choice("torch", {"triton": "it takes keys of at most 256 channels"})}
    monkeypatch.setattr(
        doctor, "describe", lambda long=False, beyond=False: above if long else other if beyond else table
    )


def test_says_how_to_install_what_is_missing_and_broken(gpu, monkeypatch, capsys):
    versions = {"triton": "3.6.0", "flash-linear-attention": "0.6.0", "mamba-ssm": "2.3.2"}

    def version(name):
        if name not in versions:
            raise doctor.metadata.PackageNotFoundError(name)
        return versions[name]

    def load(module):
        if module == "mamba_ssm":
            raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.importlib, "import_module", load)
    doctor.main()
    words = " ".join(capsys.readouterr().out.split())
    assert (
        "causal-conv1d is missing; training works without it. Install it with: pip install --no-build-isolation"
        in words
    )
    assert "mamba-ssm 2.3.2 cannot be imported" in words and "--force-reinstall --no-deps mamba-ssm" in words
    assert "triton is missing" not in words and "flash-linear-attention is missing" not in words


def test_long_windows_and_other_sizes_that_use_another_backend_have_rows_of_their_own(gpu, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "package_state", lambda package: ("1", "works"))
    doctor.main()
    words = capsys.readouterr().out
    assert "above 128" in words and "fla" in words and "All kernels are in place." in words
    assert "other sizes" in words and "keys of at most" in words


@pytest.mark.parametrize(("n", "said"), [(1, "1 thread"), (2, "2 threads; .* OMP_NUM_THREADS=1 .*")])
def test_threads_are_counted_and_where_several_are_slow_is_said(monkeypatch, capsys, n, said):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n)
    assert re.fullmatch(said, threads()) and f"CPU: {n} thread" in report(capsys)


@pytest.mark.parametrize(("free", "enough"), [(10**8, False), (10**12, True)])
def test_a_disk_that_is_nearly_full_is_named(monkeypatch, free, enough):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert doctor.disk().startswith(f"disk: {free / 1e9:,.1f} GB free here")
    assert doctor.disk().endswith("free here") is enough


def test_packages_other_than_the_pinned_ones_are_named():
    assert doctor.version_drift() == []
    here, other = metadata.version("torch").split("+")[0], metadata.version("numpy")
    pins = ["# exact", f"Torch=={here}", f"NumPy=={other}.1", "a-package-that-is-not-here==1"]
    Path("constraints.txt").write_text("\n".join(pins))
    assert doctor.version_drift() == [
        f"packages: 1 of 3 pins of constraints.txt differ: NumPy {other} (pinned {other}.1)"
    ]
    Path("constraints.txt").write_text(f"torch=={here}\n")
    assert doctor.version_drift() == ["packages: as constraints.txt"]


def test_stages_that_have_changed_and_results_that_are_not_here_are_told_apart():
    assert doctor.pipeline() == []
    Path("dvc.yaml").write_text(
        "stages:\n"
        "  a: {cmd: cp code data, deps: [code], outs: [data]}\n"
        "  b: {cmd: cp data table, deps: [data], outs: [table]}\n"
    )
    (said,) = doctor.pipeline()
    assert said.startswith("pipeline: unknown (ERROR: you are not inside of a DVC repository")
    Path("code").write_text("1")
    with Repo.init(no_scm=True) as repo:
        repo.reproduce()
    assert doctor.pipeline() == ["pipeline: all results are of this code and these settings"]
    held = {str(Path("data").absolute()): {"pid": os.getpid(), "cmd": "dvc repro"}}
    Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": held}))
    assert doctor.pipeline() == ["pipeline: unknown (a stage is running)"]
    Path(".dvc/tmp/rwlock").unlink()
    Path("table").unlink()
    Path("code").write_text("2")
    assert doctor.pipeline() == [
        "pipeline: code, data or settings are not those that made the results, in 1 stage: a",
        "  nothing is broken: the results here stand for what made them;",
        "  dvc status says what differs, make repro makes them anew",
        "pipeline: results of 1 stage are not here; make repro makes them",
    ]
    Path("code").write_text("1")
    Path("table").write_text("0")
    assert doctor.pipeline() == [
        "pipeline: results are not as they were made, of 1 stage: b; make repro makes them anew"
    ]
