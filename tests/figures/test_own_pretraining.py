"""Figures 4b and 5 by the commands of dvc.yaml at scale gpu: a transformer is pretrained, exported, and grown.

What differs from the scale's settings are sizes, budgets and the device.
"""

import json
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from dvc.repo import Repo
from safetensors.torch import load_file
from test_pretrained_chain import edited, run

from lmsleep.model.trained import trained_sleeps
from lmsleep.pretrained import from_lightning

ROOT = Path(__file__).parents[2]
STEPS = 2
WARMUP = {"fig4b": STEPS, "fig5": STEPS - 1}  # fig4b ends within it
pytestmark = pytest.mark.slow
LAYERS = {0: 0, 2: 1, 3: 2, 5: 3}  # of AjAAjA, those of AAAA


def shrink():
    for name in ("pretrain", "looped", "sliding"):
        with edited(f"configs/experiment/gpu/gsm_{name}.yaml") as config:
            small = {"accelerator": "cpu", "precision": "32-true", "val_check_interval": STEPS}
            config.trainer.update(small)
            config.data.update({"batch_size": 4, "eval_batch_size": 8, "num_workers": 0})
            config.model.accelerate = "none"
            config.model.optimizer.update({"warmup_steps": 0, "weight_decay": 0.0})
            config.model.model.update({"d_model": 32, "n_heads": 2})
            if name != "pretrain":
                config.model.model.update({"fast_heads": 1, "fast_key_dim": 16, "fast_value_dim": 32})
                config.trainer.callbacks[0].init_args.steps = WARMUP["fig4b" if name == "looped" else "fig5"]
    with edited("configs/dataset/gsm_terse.yaml") as config:
        config.update({"train": 32, "val": 8, "test": 8})
    with edited("params.yaml") as params:
        for name in WARMUP:
            params.figures[name].max_steps = params.pretrained[name].max_steps = STEPS
            params.grids[name] = {"n_passes": [1, 2], "seeds": [0]}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Makes a folder with all that the stages need the current one. Stage -> its command."""
    folder = tmp_path_factory.mktemp("gpu")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / "configs/scale/gpu.yaml", folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("torch.cuda.is_available", lambda: False)
        patch.setattr("os.cpu_count", lambda: 1)
        shrink()
        repo = Repo.init(str(folder), no_scm=True)
        yield {s.addressing: shlex.split(s.cmd) for s in repo.index.stages}
        repo.close()


@pytest.fixture(scope="module", params=list(WARMUP))
def figure(request, commands):
    """The name of a figure all of whose stages have run."""
    for stage in ("data@{}", "pretrain@{}", "train_{}@1-0", "train_{}@2-0", "evaluate@{}", "table@{}"):
        run(commands[stage.format(request.param)])
    return request.param


def pretrained(figure):
    return Path("runs/gpu/pretrained", figure)


def checkpoint(figure, n_passes):
    return f"runs/gpu/{figure}/n{n_passes}-s0/last.ckpt"


def test_it_is_pretrained_as_a_looped_language_model_that_sees_the_whole_row(figure):
    said = json.loads((pretrained(figure) / "config.json").read_text())
    assert (said["model"]["pattern"], said["model"]["window_size"], said["trained"]["steps"]) == ("AAAA", 240, STEPS)
    assert (said["trained"]["wake_passes"], said["trained"]["task"]["init_args"]["loss"]) == (4, "text")
    model = from_lightning(pretrained(figure) / "last.ckpt")
    assert trained_sleeps(model.trained, figure)["wake_passes"] == 4
    weights = model.state_dict()
    for name, weight in load_file(pretrained(figure) / "model.safetensors").items():
        assert torch.equal(weight, weights[name])


@pytest.mark.parametrize("n_passes", [1, 2])
def test_the_runs_start_from_it_and_train_the_inserted_layers_first(figure, n_passes):
    before, model = load_file(pretrained(figure) / "model.safetensors"), from_lightning(checkpoint(figure, n_passes))
    after = model.state_dict()
    assert (model.config.pattern, model.window_size) == ("AjAAjA", {"fig4b": 128, "fig5": 48}[figure])
    for block, layer in LAYERS.items():
        for part in ("mixer.q_proj", "mixer.o_proj", "mlp.up_proj", "mlp.down_proj"):
            was = before[f"blocks.layers.{layer}.{part}.weight"]
            moved = (after[f"blocks.layers.{block}.{part}.weight"] - was).abs().max()
            assert moved == 0 if figure == "fig4b" else moved > 0, (block, part)
    for block in {*range(6)} - LAYERS.keys():
        assert after[f"blocks.layers.{block}.mixer.o_proj.weight"].any()
    assert torch.equal(after["embedding.weight"], before["embedding.weight"]) == (figure == "fig4b")


@pytest.mark.parametrize("n_passes", [1, 2])
def test_they_are_awake_for_one_pass(figure, n_passes):
    sleeps = {"n_passes": n_passes, "eviction": {"fig4b": "hard", "fig5": "sliding"}[figure]}
    trained = from_lightning(checkpoint(figure, n_passes)).trained
    assert trained_sleeps(trained, figure) == sleeps | {"after_loss": False, "wake_passes": 1}


def test_the_table_holds_every_operation_count_of_every_run(figure):
    table = pd.read_csv(f"results/gpu/{figure}.csv", dtype={"slice": str})
    exact = table[table.metric == "test_exact"]
    for n_passes in (1, 2):
        assert set(exact[exact.n_passes == n_passes].slice) == {"all", *map(str, range(1, 9))}
    assert set(table.model) == {"AjAAjA"}


def test_a_model_that_loops_awake_is_not_shown_token_by_token(figure):
    from lmsleep.runtime.demo import main

    with pytest.raises(ValueError, match=r"^wake_passes of a model that tokens stream into must be 1, got 4$"):
        main(str(pretrained(figure)))
