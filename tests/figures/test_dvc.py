"""dvc.yaml at each scale: it resolves, what it names exists, and every figure ends on the report."""

import importlib.util
import re
import shutil
from pathlib import Path

import networkx
import pytest
import torch
import yaml
from dvc.repo import Repo

from lmsleep import HybridConfig
from lmsleep.cli import COMMANDS
from lmsleep.commands.cost import StepWork
from lmsleep.figures.results import CAPTIONS
from lmsleep.tasks import Batch
from lmsleep.windows import SleepSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["smoke", "mini", "gpu", "paper"])
def pipeline(request, tmp_path_factory):
    """A DVC repository with this dvc.yaml at one scale, the code and nothing built."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "src").symlink_to(ROOT / "src")
    for name in ("configs", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("mini", "gpu", "paper", "seeds"):  # of which the report has what is there
        (folder / "results" / name).mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / f"configs/scale/{request.param}.yaml", folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        repo = Repo.init(str(folder), no_scm=True)
        yield repo
        repo.close()


def made(repo):
    return {Path(out.def_path) for stage in repo.index.stages for out in stage.outs}


def test_every_dependency_exists_or_is_made_by_a_stage(pipeline):
    outs = made(pipeline)
    built = outs | {folder for out in outs for folder in out.parents}
    for stage in pipeline.index.stages:
        for dep in (Path(dep.def_path) for dep in stage.deps):
            assert dep in built or dep.exists(), f"{stage.addressing} depends on {dep}"


def test_every_figure_has_its_table_numbers_and_pictures(pipeline):
    params, names = yaml.safe_load(Path("params.yaml").read_text()), {path.name for path in made(pipeline)}
    drawn = {*params["figures"], *params["measured"], *params["probed"], "controls", "ablations"}
    assert {f"{figure}.{suffix}" for figure in drawn for suffix in ("csv", "json", "png", "svg")} <= names
    captions = {
        caption.name for caption in CAPTIONS.values() if params["scale"] in caption.scales and not caption.by_hand
    }
    assert drawn <= captions and (drawn == captions or params["scale"] == "gpu")


def test_a_figure_that_the_scale_leaves_out_has_no_stage(pipeline):
    figures = yaml.safe_load(Path("params.yaml").read_text())["figures"]
    for name in {"fig2a", "fig2b", "fig3", "fig4a", "fig4b", "fig5", "text", "arms", "arms_depo"} - figures.keys():
        assert not [stage.addressing for stage in pipeline.index.stages if name in stage.addressing]


def test_the_scale_that_is_chosen_is_a_file_and_all_have_the_same_keys(pipeline):
    assert (ROOT / "params.yaml").read_text() == (ROOT / "configs/scale/mini.yaml").read_text()
    params, mini = (yaml.safe_load(path.read_text()) for path in (Path("params.yaml"), ROOT / "params.yaml"))
    assert list(params) == list(mini) and list(params["grids"]) == list(mini["grids"])


def test_n_1_takes_the_operations_of_the_larger_n_in_whole_intervals_of_validation():
    config = yaml.safe_load((ROOT / "configs/experiment/gpu/text.yaml").read_text())
    runs = yaml.safe_load((ROOT / "configs/scale/gpu.yaml").read_text())["grids"]["text"]["runs"]
    model = HybridConfig(**config["model"]["model"]).for_task(257, 256)
    row = Batch(*torch.zeros(3, 1, 2048, dtype=torch.int64))
    operations = {
        (run["n_passes"], run["max_steps"]): run["max_steps"]
        * StepWork(model, row, SleepSettings(run["n_passes"], after_loss=True)).flops
        for run in runs
    }
    fewest = min(steps for _, steps in operations)
    longer = sorted(steps for n, steps in operations if n == 1 and steps > fewest)
    for n, steps in zip((2, 4), longer, strict=True):
        assert operations[1, steps] == pytest.approx(operations[n, fewest], rel=0.01)
    assert not [steps for _, steps in operations if steps % config["trainer"]["val_check_interval"]]


def test_no_two_stages_make_the_same_file(pipeline):
    outs = [out.def_path for stage in pipeline.index.stages for out in stage.outs]
    assert len(set(outs)) == len(outs)


def test_every_command_runs_a_module_of_ours_and_every_config_exists(pipeline):
    for stage in pipeline.index.stages:
        module = re.match(r"python -m (\S+)", stage.cmd).group(1)
        spec = importlib.util.find_spec(module)
        assert spec is not None, stage.cmd
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


@pytest.mark.parametrize("pipeline", ["gpu"], indirect=True)  # which has every kind
def test_a_dry_run_plans_stages_of_every_kind(pipeline):
    for dep in {Path(dep.def_path) for stage in pipeline.index.stages for dep in stage.deps}:
        if dep.parts[0] in ("data", "runs", "results"):  # a dry run makes no outputs, and stops where one is missing
            dep.parent.mkdir(parents=True, exist_ok=True)
            dep.touch() if dep.suffix else dep.mkdir(exist_ok=True)
    kinds = {stage.addressing.partition("@")[0]: stage.addressing for stage in pipeline.index.stages}
    planned = pipeline.reproduce(list(kinds.values()), single_item=True, dry=True, run_cache=False)
    assert {stage.addressing for stage in planned} == {*kinds.values()}
    assert kinds.keys() == yaml.safe_load(Path("dvc.yaml").read_text())["stages"].keys()


def test_runs_that_start_from_a_model_of_ours_wait_until_it_is_trained(pipeline):
    params, stages = yaml.safe_load(Path("params.yaml").read_text()), {s.addressing: s for s in pipeline.index.stages}
    graph = pipeline.index.graph
    assert bool(params["pretrained"]) == (params["scale"] == "gpu")
    for name in {"fig4b", "fig5"} & params["figures"].keys():
        start = yaml.safe_load(Path(params["figures"][name]["data"]["config"]).read_text())["model"].get("init_from")
        needed = f"pretrain@{name}" if name in params["pretrained"] else f"data@{name}"
        assert (name in params["pretrained"]) == (start == f"runs/{params['scale']}/pretrained/{name}")
        cells = [stage for address, stage in stages.items() if address.startswith(f"train_{name}@")]
        assert cells and all(stages[needed] in networkx.descendants(graph, cell) for cell in cells)
        assert all(stages[f"data@{name}"] in networkx.descendants(graph, cell) for cell in cells)
