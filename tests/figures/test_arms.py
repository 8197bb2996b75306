"""The arms: what each configuration changes, and verdicts worked out by hand."""

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lmsleep.commands.fit import SleepCLI, make_cli
from lmsleep.figures import settings as module
from lmsleep.figures.plots.ours import verdicts
from lmsleep.figures.settings import arm_of, arms
from lmsleep.figures.stats import HELPS, HURTS, UNDECIDED, Estimate, verdict
from lmsleep.figures.train import arguments_of_arm, main
from lmsleep.model import HybridConfig
from lmsleep.tidy import COLUMNS
from lmsleep.training import DrawPasses
from lmsleep.training.callbacks import SleepCallback

ROOT = Path(__file__).parents[2]
GPU = ROOT / "configs/experiment/gpu/rule110.yaml"
BASE = {"d_model": 256, "pattern": "AGAG", "n_heads": 4, "decay_rates": (0.0, 16.0), "vocab_size": 3, "window_size": 24}
# What each arm changes: fields of the model, and N, passes awake and steps.
CHANGES = {
    "n4": ({}, (4, 1, 1170)),
    "small": ({"d_model": 192, "n_heads": 3}, (4, 1, 4 * 1170)),
    "n1": ({}, (1, 1, 1170)),
    "steps4": ({}, (1, 1, 4 * 1170)),
    "deep8": ({"pattern": "AG" * 4}, (1, 1, 1170)),
    "deep16": ({"pattern": "AG" * 8}, (1, 1, 1170)),
    "awake": ({}, (1, 4, 1170)),
    "full": ({"window_size": 24 * 4 + 4}, (1, 1, 1170)),
    "attention": ({"pattern": "AAAA"}, (1, 1, 1170)),
    "reset": ({"between_passes": "reset"}, (4, 1, 1170)),
    "embed": ({"between_passes": "embed"}, (4, 1, 1170)),
    "cut_h": ({"between_passes": "cut_h"}, (4, 1, 1170)),
    "cut": ({"between_passes": "cut"}, (4, 1, 1170)),
    "norm": ({"norm_between_passes": True}, (4, 1, 1170)),
    "drawn": ({}, (4, 1, 1170)),
    "negative": ({"allow_neg_eigval": True}, (4, 1, 1170)),
    "mamba": ({"pattern": "AMAM"}, (4, 1, 1170)),
    "mamba_awake": ({"pattern": "AMAM"}, (1, 1, 1170)),
    "mamba_delta": ({"pattern": "AMAM", "delta": True}, (4, 1, 1170)),
    "mamba_delta_awake": ({"pattern": "AMAM", "delta": True}, (1, 1, 1170)),
    "jet": ({"pattern": "AJAJ"}, (4, 1, 1170)),
    "jet_awake": ({"pattern": "AJAJ"}, (1, 1, 1170)),
}
DEPO = ROOT / "configs/experiment/gpu/depo.yaml"
ON_DEPO = {name: CHANGES[name] for name in ("n4", "n1", "steps4", "deep8", "deep16", "awake", "full", "attention")}
ON_DEPO["full"] = ({"window_size": 24 * 4 + 24}, (1, 1, 1170))


class Unstarted(SleepCLI):
    """A run as its arguments say, made and not started."""

    def parse_arguments(self, parser, args):
        self.config = parser.parse_args(args)


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_table_is_the_one_below_and_the_grid_of_scale_gpu_has_every_arm(at_root):
    known = arms()
    assert list(known) == list(CHANGES)
    grids = yaml.safe_load(Path("configs/scale/gpu.yaml").read_text())["grids"]
    assert (set(grids["arms"]["arms"]), set(grids["arms_depo"]["arms"])) == (set(known), set(ON_DEPO))
    assert all(arm.question and arm.group for name, arm in known.items() if name not in ("n4", "small"))


@pytest.mark.parametrize(
    ("figure", "name"), [*(("arms", name) for name in CHANGES), *(("arms_depo", name) for name in ON_DEPO)]
)
def test_an_arm_is_the_base_but_for_what_its_name_says(at_root, monkeypatch, figure, name):
    monkeypatch.setattr("sys.argv", ["train"])  # Lightning warns of arguments that it does not use
    build = HybridConfig.build
    monkeypatch.setattr(HybridConfig, "build", lambda config, device=None: build(config, "meta"))
    config, changes, steps, symbols = (GPU, CHANGES, 1170, 3) if figure == "arms" else (DEPO, ON_DEPO, 8000, None)
    arguments = arguments_of_arm(Path(f"runs/gpu/{figure}/{name}-s100"))
    words = [f"--config={config}", *arguments, "--trainer.accelerator=cpu", "--trainer.precision=32"]
    cli = make_cli(Unstarted, words, None, run=False, save_config_callback=None)
    sleeper = next(c for c in cli.trainer.callbacks if isinstance(c, SleepCallback))
    fields, (n_passes, wake_passes, long) = changes[name]
    vocab = {"vocab_size": symbols or cli.datamodule.task.vocab_size}
    assert asdict(cli.model.model.config) == asdict(HybridConfig(**(BASE | vocab | fields)))
    assert (sleeper.n_passes, sleeper.wake_passes) == (n_passes, wake_passes)
    assert cli.trainer.max_steps == long // 1170 * steps
    assert cli.trainer.max_steps % cli.trainer.val_check_interval == 0
    assert any(isinstance(c, DrawPasses) for c in cli.trainer.callbacks) == (name == "drawn")
    assert cli.model.accelerate == ("compile" if name == "drawn" else "compile+graph")


def test_an_arm_with_as_many_operations_has_them(at_root):
    """16 blocks at N = 1, and 4 blocks that loop awake, cost what 4 blocks cost at N = 4 in a window that sleeps."""
    config = HybridConfig(**BASE)
    head = 2 * 256 * 3
    deep = HybridConfig(**(BASE | {"pattern": "AG" * 8}))
    assert deep.flops_per_token(1) - head == config.flops_per_token(4) - head == 4 * (config.flops_per_token(1) - head)


@pytest.mark.parametrize(
    ("ends", "word"),
    [((0.1, 0.2), HELPS), ((-0.2, -0.1), HURTS), *(((low, 0.1), UNDECIDED) for low in (-0.1, 0.0, math.nan))],
)
def test_a_verdict_is_given_by_an_interval_on_one_side_of_zero(ends, word):
    assert verdict(Estimate(0.0, *ends, 3)) == word


def rows(values):
    """Test accuracies {(arm, seed): value}, and rows that must not count."""
    made = [("arms", arm, 1, seed, "all", 10, "test_exact", value) for (arm, seed), value in values.items()]
    other = [("fig2b", "n1", 1, 0, "all", 10, "test_exact", 0.0), ("arms", "n1", 1, 0, "12", 10, "test_exact", 0.0)]
    return pd.DataFrame([*made, *other, ("arms", "n1", 1, 0, "all", 10, "cut_exact", 0.0)], columns=COLUMNS)


def test_verdicts_are_paired_by_seed_against_the_arm_that_is_named(at_root):
    """Differences of -0.5, -0.4, -0.3 have mean -0.4 and t interval +- 4.303 * 0.1 / sqrt(3)."""
    n4 = {("n4", seed): value for seed, value in enumerate((0.9, 0.7, 0.5))}
    n1 = {("n1", seed): value for seed, value in enumerate((0.4, 0.3, 0.2))}
    mamba = {("mamba", seed): 0.2 for seed in range(3)} | {("mamba_awake", seed): 0.2 + seed / 10 for seed in range(3)}
    (record,) = verdicts(rows(n4 | n1 | mamba), "controls")
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (record["arm"], record["against"], record["n"], record["verdict"]) == ("n1", "n4", 3, HURTS)
    found = [record[key] for key in ("exact", "value", "low", "high")]
    assert found == pytest.approx([0.3, -0.4, -0.4 - half, -0.4 + half], abs=1e-6)
    against = {r["arm"]: (r["against"], round(r["value"], 6)) for r in verdicts(rows(n4 | n1 | mamba), "ablations")}
    assert against == {"mamba": ("n4", -0.5), "mamba_awake": ("mamba", 0.1)}


def test_arms_of_another_task_are_compared_among_themselves(at_root):
    arm = {("n4", 0): 0.9, ("n1", 0): 0.4}
    depo = rows({("n4", 0): 0.5, ("n1", 0): 0.7}).replace("arms", "arms_depo")
    found = verdicts(pd.concat([rows(arm), depo]), "controls")
    assert [(r["figure"], r["question"], round(r["value"], 6)) for r in found] == [
        ("arms", "What if nothing sleeps?", -0.5),
        ("arms_depo", "What if nothing sleeps? (Depo)", 0.2),
    ]


def test_an_arm_that_was_not_trained_or_has_nothing_beside_it_has_no_verdict(at_root):
    assert verdicts(rows({("n1", 0): 0.5}), "controls") == []


def test_one_seed_decides_nothing(at_root):
    (record,) = verdicts(rows({("n1", 0): 0.1, ("n4", 0): 0.9}), "controls")
    assert math.isnan(record["low"]) and record["verdict"] == UNDECIDED


def test_the_folder_names_the_arm_and_an_unknown_one_is_refused(at_root, tmp_path):
    assert arm_of(Path("runs/gpu/arms/mamba_delta-s100")) == "mamba_delta"
    with pytest.raises(SystemExit, match=r"^error: the folder must be called <arm>-s<seed> with an arm of configs"):
        main([str(tmp_path / "deep9-s0"), "--arm", "--config", str(GPU)])


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"title": "x"}, r"n4 in .* must hold the fields of .*arguments"),
        ({"title": "x", "arguments": [], "against": "n5"}, r"against of n4 in .* must be one of n4, got 'n5'"),
        ({"title": "x", "arguments": [], "group": "other"}, r"group in n4 in .*, got 'other'"),
    ],
)
def test_a_wrong_entry_is_one_sentence(tmp_path, monkeypatch, entry, sentence):
    monkeypatch.setattr(module, "ARMS_FILE", tmp_path / "arms.yaml")
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump({"n4": entry}))
    with pytest.raises(ValueError, match=sentence):
        arms()
