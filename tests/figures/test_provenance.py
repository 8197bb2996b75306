"""What a run says of the code and the machine that made it."""

import subprocess

import pytest
import torch

from lmsleep.figures.provenance import commit, hardware


def git(*words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *identity, *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    git("init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "model.py").write_text("x = 1\n")
    git("add", "src")
    git("commit", "-q", "-m", "One")
    return tmp_path


def test_a_clean_checkout_is_its_commit(checkout):
    assert commit() == git("rev-parse", "HEAD")


def test_changed_or_new_code_is_marked(checkout):
    (checkout / "src" / "model.py").write_text("x = 2\n")
    assert commit() == git("rev-parse", "HEAD") + "+"
    git("commit", "-q", "-a", "-m", "Two")
    (checkout / "configs").mkdir()
    (checkout / "configs" / "new.yaml").write_text("a: 1\n")
    assert commit() == git("rev-parse", "HEAD") + "+"


def test_what_the_pipeline_writes_is_no_change_of_the_code(checkout):
    (checkout / "dvc.lock").write_text("stages: {}\n")
    assert commit() == git("rev-parse", "HEAD")


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_hardware_is_the_gpu_only_if_the_process_used_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert "CPU" in hardware()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100")
    assert hardware() == "NVIDIA A100"
