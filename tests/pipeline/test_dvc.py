"""dvc.yaml at each scale: it resolves, what it names exists, and every figure ends on the report."""

import importlib.util
import re
import shutil
from pathlib import Path

import networkx
import pytest
from dvc.repo import Repo

from lmsleep.cli import COMMANDS
from lmsleep.pipeline.report.captions import CAPTIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["smoke", "mini", "paper"])
def pipeline(request, tmp_path_factory):
    """A DVC repository with this dvc.yaml at one scale, the code and nothing built."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "src").symlink_to(ROOT / "src")
    for name in ("configs", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "dvc.yaml", folder)
    params, changed = re.subn(r"^run: .*", f"run: *{request.param}", (ROOT / "params.yaml").read_text(), flags=re.M)
    assert changed == 1
    (folder / "params.yaml").write_text(params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        repo = Repo.init(str(folder), no_scm=True)
        yield repo
        repo.close()


def made(repo):
    return {Path(out.def_path) for stage in repo.index.stages for out in stage.outs}


def test_every_dependency_exists_or_is_made_by_a_stage(pipeline):
    outs = made(pipeline)
    for stage in pipeline.index.stages:
        for dep in (Path(dep.def_path) for dep in stage.deps):
            built = dep in outs or any(dep in out.parents for out in outs)
            assert built or dep.exists(), f"{stage.addressing} depends on {dep}"


def test_every_figure_has_its_table_numbers_and_pictures(pipeline):
    names = {path.name for path in made(pipeline) if path.parts[0] == "results"}
    assert {f"{c.name}.{suffix}" for c in CAPTIONS for suffix in ("csv", "json", "png", "svg")} <= names


def test_no_two_stages_make_the_same_file(pipeline):
    outs = [out.def_path for stage in pipeline.index.stages for out in stage.outs]
    assert len(set(outs)) == len(outs)


def test_every_command_runs_a_module_of_ours_and_every_config_exists(pipeline):
    for stage in pipeline.index.stages:
        module = re.match(r"python -m (\S+)", stage.cmd).group(1)
        spec = importlib.util.find_spec(module)
        assert spec is not None, stage.cmd
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{module}.__main__"), stage.cmd
        for config in re.findall(r"--config (\S+)", stage.cmd):
            assert Path(config).is_file(), stage.cmd


def test_a_stage_depends_on_the_module_that_it_runs(pipeline):
    for stage in pipeline.index.stages:
        module, first = re.match(r"python -m (\S+)\s+(\S+)", stage.cmd).groups()
        module = COMMANDS[first][0] if module == "lmsleep" else module
        path = Path("src", *module.split("."))
        deps = {Path(dep.def_path) for dep in stage.deps}
        assert deps & {path, path.with_suffix(".py"), *path.parents}, stage.addressing


def test_a_stage_depends_on_every_configuration_that_its_command_reads(pipeline):
    for stage in pipeline.index.stages:
        deps = {Path(dep.def_path) for dep in stage.deps}
        for config in map(Path, re.findall(r"--(?:config|dataset) (\S+)", stage.cmd)):
            assert deps & {config, *config.parents}, f"{stage.addressing} reads {config}"


def test_the_report_is_behind_every_other_stage(pipeline):
    graph = pipeline.index.graph
    report = next(stage for stage in graph if stage.addressing == "report")
    others = set(graph) - {report}
    assert networkx.descendants(graph, report) == others  # edges point from a stage to what it needs


def test_a_dry_run_plans_every_stage(pipeline):
    for dep in {Path(dep.def_path) for stage in pipeline.index.stages for dep in stage.deps}:
        if dep.parts[0] in ("data", "runs", "results"):  # a dry run makes no outputs, and stops where one is missing
            dep.parent.mkdir(parents=True, exist_ok=True)
            dep.touch() if dep.suffix else dep.mkdir(exist_ok=True)
    planned = pipeline.reproduce(dry=True)
    assert {stage.addressing for stage in planned} == {stage.addressing for stage in pipeline.index.stages}
    assert planned[-1].addressing == "report"
