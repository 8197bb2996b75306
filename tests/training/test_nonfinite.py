"""The stop on a value that is not finite, and the step taken again."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from safetensors import safe_open

from lmsleep import HybridLM, SleepCallback, SleepModule, read_windows
from lmsleep.cli import main
from lmsleep.model.folder import read_config
from lmsleep.tasks import Batch
from lmsleep.training import LastCheckpoint, StopOnNonFinite, WarmupStage
from lmsleep.training.nonfinite import StepRecord
from lmsleep.training.recipe import DrawPasses
from lmsleep.windows import SleepSettings

from .conftest import TASK, fitted, weights


class Spoiled(SleepModule):
    """At step 2 the loss is not a number, or only one gradient is infinite."""

    what = "loss"

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.trainer.global_step != 2:
            return loss
        self.before = weights(self)
        if self.what == "loss":
            return loss * float("nan")
        return loss + Infinite.apply(self.model.head.weight)


class Infinite(torch.autograd.Function):
    """0 with an infinite gradient."""

    @staticmethod
    def forward(ctx, weight):
        ctx.shape = weight.shape
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx, grad):
        return grad.new_full(ctx.shape, torch.inf)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_non_finite_value_stops_the_run_before_the_update(run, what):
    cell = run(3, [StopOnNonFinite()], module_class=Spoiled, data_options={"seed": 7})
    cell.module.what = what
    sentence = rf"^{what} is not finite at step 2 \(n_passes=3, seed=7\); the weights are those before this step$"
    with pytest.raises(FloatingPointError, match=sentence):
        fitted(cell)
    assert all(map(torch.equal, weights(cell.module), cell.module.before))
    assert cell.trainer.global_step == 2


@pytest.mark.parametrize("arrived", [True, False])
@pytest.mark.parametrize(("ranks", "pending", "raises"), [(1, 1, None), (1, 2, None), (2, 1, False), (2, 2, True)])
def test_ranks_raise_a_step_later_whatever_has_arrived_and_a_single_process_as_soon_as_it_has(
    ranks, pending, raises, arrived
):
    watch, spoiled = StopOnNonFinite(), SimpleNamespace(arrived=arrived, value=torch.tensor([True, False]))
    step = StepRecord(2, 7, SleepSettings(3), "32-true", "none", False, 1, "cuda", "")
    watch.pending.extend((step, [], [], spoiled) for _ in range(pending))
    trainer = SimpleNamespace(world_size=ranks, checkpoint_callback=None)
    raised = False
    try:
        watch._raise_for_arrived(trainer, None)
    except FloatingPointError:
        raised = True
    assert raised == (arrived if raises is None else raises)


@pytest.mark.parametrize(
    ("own", "targets", "error", "sentence"),
    [
        (torch.nan, -100, ValueError, r"^every batch of Rule110 must have targets, got 'one without'$"),
        (0.0, -100, FloatingPointError, r"^loss is not finite at step 2 "),  # that of another rank
        (torch.nan, 1, FloatingPointError, r"^loss is not finite at step 2 "),
    ],
)
def test_of_a_batch_without_targets_on_any_rank_that_is_said(own, targets, error, sentence):
    """Rank 0 of two, of which one has a loss that is no number; with two batches a step, the first in order."""
    watch, spoiled = StopOnNonFinite(), SimpleNamespace(arrived=True, value=torch.tensor([True, True]))
    step = StepRecord(2, 7, SleepSettings(3), "32-true", "none", False, 1, "cuda", "")
    batches = [Batch(*torch.tensor([[[1]], [[value]], [[0]]])) for value in (1, targets)]
    watch.pending.append((step, batches, [torch.tensor(0.5), torch.tensor(own)], spoiled))
    module = SimpleNamespace(task=TASK)
    with pytest.raises(error, match=sentence):
        watch._raise_for_arrived(SimpleNamespace(world_size=2, checkpoint_callback=None), module, wait=True)


class Beside(SleepModule):
    """The loss of one micro-batch is not a number, while all gradients are finite."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + (torch.nan if batch_idx == self.at else 0)


@pytest.mark.parametrize("at", [3, 4, 5])
def test_the_loss_of_every_micro_batch_of_a_step_is_looked_at(run, at):
    cell = run(2, [StopOnNonFinite()], module_class=Beside, accumulate_grad_batches=3)
    cell.module.at = at
    with pytest.raises(FloatingPointError, match=r"^loss is not finite at step 1 "):
        fitted(cell)


def test_finite_values_do_not_stop_it(run):
    guarded, plain = fitted(run(2, [StopOnNonFinite()])), fitted(run(2))
    assert all(map(torch.equal, weights(guarded.module), weights(plain.module)))


class Overflow(L.Callback):
    """Before step 2, weights so large that the loss, or only its gradient, overflows."""

    def __init__(self, what):
        self.what = what

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            head, norm = pl_module.model.head.weight.data, pl_module.model.norm.weight.data
            size = torch.finfo(head.dtype).max ** (1 if self.what == "loss" else 0.9)
            head.fill_(size)[0].neg_()
            norm.fill_(1 if self.what == "loss" else 1 / size)


# Settings of the trainer, and which batches step 2 reads.
SETTINGS = {
    "one batch a step": ({}, [2]),
    "several batches a step": ({"accumulate_grad_batches": 3}, [6, 7, 8]),
    "a step of fewer batches": (
        {"accumulate_grad_batches": 2, "limit_train_batches": 5, "val_check_interval": None},
        [4],
    ),
    "float64": ({"precision": "64-true"}, [2]),
    "bfloat16": ({"precision": "bf16-true"}, [2]),
}


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize(("setting", "batches"), SETTINGS.values(), ids=SETTINGS)
def test_the_step_that_failed_can_be_repeated_from_what_it_left(run, tmp_path, setting, batches, what):
    warmup = WarmupStage(5, train=".", eviction="sliding")
    options = {"data_options": {"seed": 7}, "enable_checkpointing": True}
    cell = run(3, [Overflow(what), warmup, StopOnNonFinite(), LastCheckpoint(str(tmp_path))], **options, **setting)
    with pytest.raises(FloatingPointError) as failed:
        fitted(cell)
    sentence, _, command = str(failed.value).partition("; to repeat it: ")
    folder = command.rpartition("lmsleep replay ")[2]
    assert sentence.startswith(f"{what} is not finite at step 2 (n_passes=3, seed=7)")
    assert folder == str(tmp_path / "nonfinite-step2")
    with pytest.raises(SystemExit) as repeated:
        main(["replay", folder])
    assert repeated.value.code == f"error: {sentence}"
    saved = HybridLM.from_pretrained(folder)
    assert all(map(torch.equal, saved.state_dict().values(), cell.module.model.state_dict().values()))
    _, step = read_config(folder)
    assert (step["n_passes"], step["eviction"], step["step"]) == (3, "sliding", 2)
    with safe_open(f"{folder}/batches.safetensors", "pt") as file:
        assert len(file.keys()) == 3 * len(batches)
        for i, step in enumerate(batches):
            tokens = TASK.rows(split="train", seed=7, step=step, batch_size=8).tokens
            assert torch.equal(file.get_tensor(f"{i}.tokens"), tokens)


def test_a_model_that_loops_awake_is_repeated_with_as_many_passes(run, tmp_path, monkeypatch):
    callbacks = [SleepCallback(2, wake_passes=3), Overflow("loss"), StopOnNonFinite(), LastCheckpoint(str(tmp_path))]
    with pytest.raises(FloatingPointError):
        fitted(run(None, callbacks, enable_checkpointing=True))
    folder, seen = tmp_path / "nonfinite-step2", []
    assert read_config(folder)[1]["wake_passes"] == 3

    def reading(*args, **options):
        seen.append(options["wake_passes"])
        return read_windows(*args, **options)

    monkeypatch.setattr("lmsleep.training.module.read_windows", reading)
    with pytest.raises(SystemExit, match=r"^error: loss is not finite at step 2"):
        main(["replay", str(folder)])
    assert seen == [3]


def test_a_step_whose_passes_were_drawn_is_repeated_with_those(run, tmp_path):
    drawn = []

    class Drawn(DrawPasses):
        def on_train_batch_start(self, *args):
            super().on_train_batch_start(*args)
            drawn.append(self.sleeper.training_n_passes)

    saver = LastCheckpoint(str(tmp_path))
    with pytest.raises(FloatingPointError, match=r"^loss is not finite at step 2 ") as failed:
        fitted(run(50, [Overflow("loss"), StopOnNonFinite(), Drawn(), saver], enable_checkpointing=True))
    assert drawn[2] < 50 and f"(n_passes={drawn[2]}, " in str(failed.value)
    assert read_config(tmp_path / "nonfinite-step2")[1]["n_passes"] == drawn[2]


def left(run, folder):
    """What a failed run leaves in its folder, and its sentence."""
    cell = run(2, [Overflow("loss"), StopOnNonFinite(), LastCheckpoint(str(folder))], enable_checkpointing=True)
    with pytest.raises(FloatingPointError) as failed:
        fitted(cell)
    return folder / "nonfinite-step2", str(failed.value)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def forget(name):
    """Takes a field out of what config.json says of the step."""

    def change(file):
        header = json.loads(file.read_text())
        del header["trained"][name]
        file.write_text(json.dumps(header))

    return change


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        ("batches.safetensors", Path.unlink, "there is no file or folder '.*batches.safetensors'"),
        ("batches.safetensors", cut, "'.*batches.safetensors' is damaged"),
        ("model.safetensors", cut, "'.*model.safetensors' is damaged"),
        (
            "config.json",
            forget("precision"),
            "trained in .*config.json must hold the fields of .*Step.*'precision'",
        ),
    ],
)
def test_what_was_left_is_read_only_if_it_is_whole(run, tmp_path, name, damage, sentence):
    folder, _ = left(run, tmp_path)
    damage(folder / name)
    with pytest.raises(SystemExit, match=f"^error: {sentence}"):
        main(["replay", str(folder)])


def test_a_step_that_is_finite_now_says_so(run, tmp_path, capsys):
    folder, _ = left(run, tmp_path)
    model = HybridLM.from_pretrained(folder)
    model.head.weight.data.zero_()
    model.save_pretrained(folder, trained=read_config(folder)[1])
    main(["replay", str(folder)])
    assert "the failure does not come again" in capsys.readouterr().out


def test_a_failure_that_cannot_be_kept_is_said_all_the_same(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lmsleep.training.nonfinite.save_tensors", full)
    _, sentence = left(run, tmp_path)
    assert sentence.startswith("loss is not finite at step 2") and sentence.endswith("No space left on device")
