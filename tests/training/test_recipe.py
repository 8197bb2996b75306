"""The warm-up stage: what trains, under which eviction, and what a checkpoint remembers of it."""

import hashlib

import lightning as L
import pytest
import torch
import yaml

from lmsleep import HybridConfig, SleepCallback, SleepModule
from lmsleep.data import RowsDataModule
from lmsleep.memory import AttentionCache
from lmsleep.tasks import Rule110
from lmsleep.training import DrawPasses, OptimizerConfig, WarmupStage

TASK = Rule110(steps=2, width=6, n_states=2)
CONFIG = HybridConfig(d_model=16, pattern="AjA", n_heads=2, zero_init=False)


def hashes(module):
    return {
        name: hashlib.sha256(p.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, p in module.model.named_parameters()
    }


class Watch(L.Callback):
    """Hashes of the parameters before each step, and the evictions of training and validation."""

    def __init__(self):
        self.before, self.evictions = [], {"train": [], "val": []}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.before.append(hashes(module))

    def on_train_start(self, trainer, module):
        watch, original = self, AttentionCache.evict

        def evict(cache, eviction):
            watch.evictions["train" if module.training else "val"].append(eviction)
            return original(cache, eviction)

        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(AttentionCache, "evict", evict)

    def on_train_end(self, trainer, module):
        self.patch.undo()
        self.before.append(hashes(module))


def fit(
    steps,
    *callbacks,
    folder,
    eviction="sliding",
    ckpt_path=None,
    accumulate=1,
    accelerate="none",
    accelerator="cpu",
    n_passes=2,
):
    torch.manual_seed(0)
    module = SleepModule(TASK, CONFIG, OptimizerConfig(adamw_lr=1e-2, warmup_steps=0), accelerate=accelerate)
    watch = Watch()
    trainer = L.Trainer(
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        callbacks=[SleepCallback(n_passes, eviction), *callbacks, watch],
        accelerator=accelerator,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    trainer.fit(module, RowsDataModule(TASK, batch_size=4, eval_rows=4), ckpt_path=ckpt_path, weights_only=False)
    return module, trainer, watch


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def only_the_jet_layers_change_and_then_everything(**options):
    module, _, watch = fit(5, WarmupStage(steps=3), **options)
    jet = {
        name for name in watch.before[0] if name.startswith(("blocks.layers.1.mixer.", "blocks.layers.1.mixer_norm."))
    }
    for step in range(3):
        assert changed(watch.before[step], watch.before[step + 1]) == jet
    for step in (3, 4):
        assert changed(watch.before[step], watch.before[step + 1]) == set(watch.before[0])
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("accelerate", ["none", "graph"])
def test_only_the_jet_layers_change_and_then_everything(tmp_path, captured_on_cpu, accelerate):
    only_the_jet_layers_change_and_then_everything(folder=tmp_path, accelerate=accelerate)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("accelerate", ["none", "graph"])
def test_only_the_jet_layers_change_on_a_gpu(tmp_path, accelerate):
    only_the_jet_layers_change_and_then_everything(folder=tmp_path, accelerate=accelerate, accelerator="gpu")


@pytest.mark.parametrize(
    ("n_passes", "given", "expected"),
    [(2, None, "hard"), (1, None, "sliding"), (2, "sliding", "sliding"), (1, "hard", "hard")],
)
def test_the_stage_has_its_own_eviction_and_validation_does_not(tmp_path, n_passes, given, expected):
    _, trainer, watch = fit(4, WarmupStage(steps=2, eviction=given), folder=tmp_path, n_passes=n_passes)
    per_step = len(watch.evictions["train"]) // 4
    assert watch.evictions["train"] == [expected] * 2 * per_step + ["sliding"] * 2 * per_step
    assert set(watch.evictions["val"]) == {"sliding"}
    assert trainer.callbacks[0].eviction == "sliding"


def test_a_regular_expression_chooses_and_steps_are_those_of_the_optimizer(tmp_path):
    _, _, watch = fit(2, WarmupStage(steps=1, train=r"mlp\.(gate|up)_proj"), folder=tmp_path, accumulate=2)
    assert changed(watch.before[0], watch.before[1]) == set()
    first = changed(watch.before[1], watch.before[2])
    assert first == {f"blocks.layers.{i}.mlp.{n}_proj.weight" for i in (0, 2) for n in ("gate", "up")}
    assert changed(watch.before[3], watch.before[4]) == set(watch.before[0])


def test_clipping_counts_the_trained_parameters_alone(tmp_path):
    norms = []

    class Clipped(WarmupStage):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            super().on_before_optimizer_step(trainer, module, optimizer)
            norms.append([name for name, p in module.model.named_parameters() if p.grad is not None])

    fit(2, Clipped(steps=1), folder=tmp_path)
    assert all(name.startswith("blocks.layers.1.") for name in norms[0])
    assert len(norms[1]) == len(list(CONFIG.for_task(TASK.vocab_size, TASK.window_size).build().parameters()))


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_run_is_the_same_run(tmp_path, stop):
    path = tmp_path / "stopped.ckpt"

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            if trainer.global_step == stop:
                trainer.save_checkpoint(path)

    whole, _, _ = fit(5, WarmupStage(steps=3), Stop(), folder=tmp_path)
    resumed, _, watch = fit(5, WarmupStage(steps=3), folder=tmp_path, ckpt_path=path)
    per_step = len(watch.evictions["train"]) // (5 - stop)
    assert watch.evictions["train"].count("hard") == per_step * max(0, 3 - stop)
    assert hashes(resumed) == hashes(whole)


def test_a_run_resumes_only_with_the_same_stage(tmp_path):
    _, trainer, _ = fit(1, WarmupStage(steps=3), folder=tmp_path)
    path = tmp_path / "stopped.ckpt"
    trainer.save_checkpoint(path)
    with pytest.raises(ValueError, match="steps of the warm-up stage must be 3"):
        fit(2, WarmupStage(steps=4), folder=tmp_path, ckpt_path=path)
    with pytest.raises(ValueError, match=r"^trainer\.callbacks must be 'WarmupStage', .*, got nothing"):
        fit(2, folder=tmp_path, ckpt_path=path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps of the warm-up stage must be 1 or more, got 0"),
        ({"steps": 1, "train": "("}, r"train of the warm-up stage must be a regular expression, got '\('"),
        ({"steps": 1, "eviction": "soft"}, "eviction must be one of"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        WarmupStage(**options)


def test_a_regular_expression_that_matches_nothing(tmp_path):
    with pytest.raises(ValueError, match="train of the warm-up stage must match the name of a parameter, got 'mamba'"):
        fit(1, WarmupStage(steps=1, train="mamba"), folder=tmp_path)


def test_the_configuration_of_the_stage_is_valid():
    with open("configs/trainer/warmup.yaml") as file:
        (callback,) = yaml.safe_load(file)["trainer"]["callbacks"]
    assert callback["class_path"] == "lmsleep.training.WarmupStage"
    assert WarmupStage(**callback["init_args"]).state_dict() == {"steps": 330, "train": None, "eviction": None}


def pretrained_sizes(folder):
    """Of a published model, as configs/model says them."""
    with open(f"configs/model/{folder.rpartition('/')[2]}.yaml") as file:
        return yaml.safe_load(file)["model"]["model"]


@pytest.mark.parametrize("scale", ["smoke", "mini", "paper"])
def test_figure_5_trains_the_inserted_layers_for_a_third_of_its_steps(scale):
    with open(f"configs/scale/{scale}.yaml") as file:
        figure = yaml.safe_load(file)["figures"]["fig5"]
    with open(figure["data"]["config"]) as file:
        config = yaml.safe_load(file)
    (stage,) = [c for c in config["trainer"]["callbacks"] if c["class_path"] == "lmsleep.training.WarmupStage"]
    stage = WarmupStage(**stage["init_args"])
    assert abs(stage.steps - figure["max_steps"] / 3) < 5 and figure["max_steps"] == config["trainer"]["max_steps"]
    assert config["sleep"]["eviction"] == "sliding" and stage.eviction is None and stage.train is None
    model = config["model"].get("model") or pretrained_sizes(config["model"]["init_from"])
    assert "j" in model["pattern"]


class Passes(L.Callback):
    """The passes of each batch, as the overflows of its windows were answered."""

    def __init__(self):
        self.made = {"train": [], "val": []}

    def on_train_start(self, trainer, module):
        original = SleepCallback.on_overflow
        self.patch = pytest.MonkeyPatch()

        def on_overflow(sleeper, module, blocks, h, S):
            calls = []
            after = original(sleeper, module, lambda h, S: calls.append(1) or blocks(h, S), h, S)
            self.made["train" if module.training else "val"].append(1 + len(calls))
            return after

        self.patch.setattr(SleepCallback, "on_overflow", on_overflow)

    def on_train_end(self, trainer, module):
        self.patch.undo()


def test_drawn_passes_cover_the_range_are_one_for_a_batch_and_depend_on_seed_and_step(tmp_path):
    runs = []
    for _ in range(2):
        passes = Passes()
        fit(12, DrawPasses(2), passes, folder=tmp_path, n_passes=4)
        runs.append(passes.made)
    first, second = (run["train"][::2] for run in runs)  # two windows of a batch sleep
    assert runs[0]["train"][1::2] == first == second and set(first) == {2, 3, 4}
    assert set(runs[0]["val"]) == {4}


def test_a_drawn_number_of_passes_is_the_number_of_passes(tmp_path):
    """Drawn from 3 to 3, a run is the one that is told 3."""
    drawn, plain = (fit(2, *callbacks, folder=tmp_path, n_passes=3)[0] for callbacks in ([DrawPasses(3)], []))
    assert hashes(drawn) == hashes(plain)


def test_a_run_resumes_only_with_the_same_range(tmp_path):
    _, trainer, _ = fit(1, DrawPasses(2), folder=tmp_path, n_passes=3)
    path = tmp_path / "stopped.ckpt"
    trainer.save_checkpoint(path)
    with pytest.raises(ValueError, match=r"^fewest must be 2, .*, got 1$"):
        fit(2, DrawPasses(), folder=tmp_path, n_passes=3, ckpt_path=path)


@pytest.mark.parametrize(
    ("fewest", "accelerate", "sentence"),
    [
        (0, "none", "fewest must be between 1 and n_passes=2 of a SleepCallback, got 0"),
        (3, "none", "fewest must be between 1 and n_passes=2 of a SleepCallback, got 3"),
        (1, "graph", "accelerate must be 'compile' or 'none' where N is drawn, got 'graph'"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(tmp_path, monkeypatch, fewest, accelerate, sentence):
    monkeypatch.setattr("lmsleep.training.module.check_accelerate", lambda *_: None)  # there is no card here
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        fit(1, DrawPasses(fewest), folder=tmp_path, accelerate=accelerate)
