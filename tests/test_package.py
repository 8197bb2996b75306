"""The wheel works without the repository; its version and its configurations are told in one place."""

import importlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import get_type_hints

import pytest

import lmsleep
from lmsleep import Session, SleepCallback, read_windows
from lmsleep.cli import main, resolve_configs
from lmsleep.runtime import StreamReader
from lmsleep.runtime.prompter import Prompter
from lmsleep.settle import Settle
from lmsleep.sleep import OnOverflow
from lmsleep.windows import Windows

ROOT = Path(__file__).parents[1]


def test_the_version_is_that_of_the_tag_and_the_next_one_that_of_the_pages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "setuptools-scm" in str(project["build-system"])
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.M)[1]
    newest, note = re.search(r"^## ([\d.]+)(.*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.M).groups()
    assert cited == newest
    if "not yet released" in note:
        assert project["tool"]["setuptools_scm"]["fallback_version"] == f"{newest}.dev0"


def test_the_names_of_the_package_are_listed_before_they_are_used():
    code = "import lmsleep; print({*lmsleep.__all__, '__version__'} <= {*dir(lmsleep)}, 'Session' in vars(lmsleep))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True False\n"


def test_the_command_says_the_version_of_the_installed_package(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"lmsleep {lmsleep.__version__}\n"
    assert lmsleep.__version__ == metadata.version("lmsleep")


def test_sources_that_are_not_installed_have_a_version_too(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert lmsleep.__version__ == "0+unknown"


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize("option", ["--config ", "--config=", "--trainer="])
def test_a_configuration_of_ours_is_found_from_anywhere(option):
    name = "configs/experiment/rule110.yaml"
    found = re.split("[ =]", " ".join(resolve_configs(f"{option}{name}".split())))[-1]
    assert Path(found).read_text() == (ROOT / name).read_text()
    assert resolve_configs(["--config=configs/none.yaml"]) == ["--config=configs/none.yaml"]
    Path(name).parent.mkdir(parents=True)
    Path(name).write_text("mine")
    assert resolve_configs(f"{option}{name}".split()) == f"{option}{name}".split(), "what is here comes first"


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize(
    "option", ["--out ", "--out=", "--checkpoint.dirpath=", "--trainer.default_root_dir ", "--save="]
)
@pytest.mark.parametrize("name", ["configs/model", "configs/model/mini.yaml"])
def test_what_is_written_never_takes_the_place_of_a_configuration_of_ours(option, name):
    assert resolve_configs(f"{option}{name}".split()) == f"{option}{name}".split()


@pytest.mark.slow
def test_the_wheel_trains_in_an_empty_folder(tmp_path):
    def run(*words, folder=ROOT, **env):
        words = [sys.executable, "-m", *words]
        done = subprocess.run(words, cwd=folder, env=os.environ | env, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    run("build", "--outdir", str(tmp_path / "dist"))  # the archive of the sources, and from that the wheel
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sources,) = (tmp_path / "dist").glob("*.tar.gz")
    assert sources.stat().st_size < 2_000_000, "no results"
    with tarfile.open(sources) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "docs/guide.md", "tests/conftest.py", "src/lmsleep/configs/model/mini.yaml"} <= names
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    alone = {"folder": tmp_path / "empty", "PYTHONPATH": str(tmp_path / "site")}
    assert str(tmp_path / "site") in run("inspect", "--details", "lmsleep", **alone)
    assert "Language models that sleep" in run("lmsleep", **alone)
    assert "window_attention" in run("lmsleep", "doctor", **alone)
    assert wheel.name.split("-")[1] == run("lmsleep", "--version", **alone).split()[1]
    run("lmsleep", "fit", "--config", "configs/experiment/smoke/rule110.yaml", "--trainer.max_steps=5", **alone)
    assert list((tmp_path / "empty").rglob("last.ckpt"))


def test_the_pages_of_the_docstrings_have_every_class_that_ours_inherit_from():
    """Of which pdoc hides what is inherited otherwise."""
    names = re.search(r"addprefix lmsleep\.,(.*?)\)", (ROOT / "Makefile").read_text(), re.S)[1]
    names = set(names.replace("\\", " ").split()) - {"hf"}  # which needs transformers
    pages = [importlib.import_module(f"lmsleep.{name}") for name in names]
    shown = {
        value
        for page in pages
        for name, value in vars(page).items()
        if isinstance(value, type) and (name in getattr(page, "__all__", ()) or value.__module__ == page.__name__)
    }
    bases = {base for kind in shown for base in kind.__mro__ if base.__module__.startswith("lmsleep")}
    bases = {base for base in bases if not base.__module__.endswith("_internals")}
    assert {f"{base.__module__}.{base.__qualname__}" for base in bases - shown} == set()
    assert {Windows, Settle, Prompter} <= shown


@pytest.mark.parametrize("kind", [Session, StreamReader, SleepCallback, read_windows])
def test_the_type_of_a_sleep_of_ones_own_is_known_wherever_it_is_an_argument(kind):
    """As pdoc looks it up: in the module of the class, not in that which names the type."""
    hints = get_type_hints(kind if kind is read_windows else kind.__init__)
    assert hints["on_overflow"] == OnOverflow | None
