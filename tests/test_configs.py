"""The settings that the paper prints (section 6) against the configurations of its scale, and budgets against texts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lmsleep.tasks.spec import build_task
from lmsleep.training.graphs import check_graph_trainer

CONFIGS = Path(__file__).parents[1] / "configs"
PAPER = CONFIGS / "experiment/paper"
GSM = ("fig4a", "fig4b", "fig5")
NAMES = sorted(path.stem for path in PAPER.glob("*.yaml"))
# task -> Muon's rate, sequences a step
PRINTED = {"Rule110": (2e-3, 512), "Depo": (2e-3, 128), "GSMInfinite": (1e-3, 256)}


@pytest.mark.parametrize("name", NAMES)
def test_rates_and_batches_are_those_that_the_paper_prints(name):
    config = yaml.safe_load((PAPER / f"{name}.yaml").read_text())
    task = config["data"]["task"]["class_path"].rpartition(".")[2]
    optimizer = config["model"]["optimizer"]
    batch = config["data"]["batch_size"] * config["trainer"].get("accumulate_grad_batches", 1)
    assert (optimizer["muon_lr"], batch) == PRINTED[task]
    assert optimizer["adamw_lr"] == 5e-5


def test_sizes_are_those_that_the_paper_prints():
    """Sections 4, 6.1 and 6.2; the model of Depo once as the text has it and once as the caption of figure 3."""
    sizes = {"rule110": ("AGAG", 256, 32, 100, 24), "depo_4block": ("AGAG", 512, 16, 360, 75)}
    sizes["depo_10block"] = ("AJJJAJJJAJ", 512, 16, 360, 75)
    for name, printed in sizes.items():
        config = yaml.safe_load((PAPER / f"{name}.yaml").read_text())
        task, model = build_task(config["data"]["task"]), config["model"]["model"]
        found = (model["pattern"], model["d_model"], max(task.slices), task.sequence_length, task.window_size)
        assert found == printed


@pytest.mark.parametrize("name", NAMES)
def test_every_run_whose_step_can_be_a_graph_is_one(name):
    config = yaml.safe_load((PAPER / f"{name}.yaml").read_text())
    trainer = SimpleNamespace(**({"accumulate_grad_batches": 1, "strategy": "auto"} | config["trainer"]))
    try:
        check_graph_trainer(trainer)  # pyright: ignore[reportArgumentType]
    except ValueError:
        assert "graph" not in config["model"].get("accelerate", "none")
    else:
        assert config["model"]["accelerate"] == "compile+graph"


def test_every_task_of_the_paper_has_a_configuration():
    configs = [yaml.safe_load(path.read_text()) for path in PAPER.glob("*.yaml")]
    assert {config["data"]["task"]["class_path"].rpartition(".")[2] for config in configs} == PRINTED.keys()


def test_a_run_at_scale_gpu_reads_no_problem_twice():
    scale = yaml.safe_load((CONFIGS / "scale/gpu.yaml").read_text())
    rows = yaml.safe_load((CONFIGS / "dataset/gsm_terse.yaml").read_text())["train"]
    runs = [(scale["figures"][name]["data"]["config"], scale["figures"][name]["max_steps"]) for name in GSM]
    pretrained = [(one["config"], one["max_steps"]) for one in scale["pretrained"].values()]
    for path, steps in runs + pretrained:
        config = yaml.safe_load((CONFIGS.parent / path).read_text())
        assert config["trainer"]["max_steps"] == steps
        assert steps * config["data"]["batch_size"] <= rows
    assert {steps for _, steps in pretrained} == {max(steps for _, steps in runs)}
