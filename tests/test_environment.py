"""The ways to install, held together: pyproject.toml, constraints.txt, requirements.txt, environment.yml."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = (ROOT / "requirements.txt").read_text().split("\n")


def pins():
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    return dict(line.strip().lower().split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_conda_installs_a_supported_python_and_then_the_requirements():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    python, pip, section = environment["dependencies"]
    name, version = python.split("=")
    assert (name, pip) == ("python", "pip")
    assert version in SpecifierSet(PROJECT["requires-python"])
    assert section == {"pip": ["-r requirements.txt"]}


def test_requirements_install_the_project_under_the_constraints():
    assert "-c constraints.txt" in REQUIREMENTS
    (editable,) = [line for line in REQUIREMENTS if line.startswith("-e ")]
    extras = re.fullmatch(r"-e \.\[(.+)\]", editable)
    assert extras is not None
    chosen = set(extras.group(1).split(","))
    assert chosen <= set(PROJECT["optional-dependencies"])
    assert "cuda" not in chosen, "kernel packages build against an installed torch: a second step"


@pytest.mark.parametrize(
    ("runs", "chosen"),
    [
        ({"python3.11": 0, "python3.12": 0}, "python3.11"),
        ({"python3.11": 127, "python3.12": 0}, "python3.12"),
        ({}, "python3"),
    ],
)
def test_make_takes_the_first_python_that_runs(tmp_path, runs, chosen):
    """A name on the path may be no interpreter: pyenv's python3.11 ends with 127 where another version is in use."""
    for name in ("pyproject.toml", "requirements.txt", "constraints.txt"):
        (tmp_path / name).touch()
    for name, status in runs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    command = [shutil.which("make"), "-n", "-f", ROOT / "Makefile", "-C", tmp_path, "install"]
    said = subprocess.run(command, env={"PATH": str(tmp_path), "SHELL": "/bin/sh"}, capture_output=True, text=True)
    assert said.stdout.splitlines()[1] == f"{chosen} -m venv .venv", said


def test_every_pin_lies_in_its_range():
    pinned = pins()
    if not pinned:
        pytest.skip("constraints.txt pins nothing")
    wanted = [Requirement(line) for line in PROJECT["dependencies"]]
    assert {r.name.lower() for r in wanted} <= set(pinned)
    for group in ("dev", "finetune", "notebooks"):
        wanted += [Requirement(line) for line in PROJECT["optional-dependencies"][group]]
    for requirement in wanted:
        if requirement.name.lower() in pinned:
            assert pinned[requirement.name.lower()] in requirement.specifier, requirement
