"""The sleep as a callback."""

import warnings
from dataclasses import dataclass

import lightning as L
import pytest
import torch

from lmsleep import SleepCallback, read_windows
from lmsleep.sleep import sleep
from lmsleep.tasks import Rule110
from lmsleep.training import RunReport

from .conftest import TASK, fitted


@dataclass(frozen=True)
class Spoken(Rule110):
    """Every token has loss, as in language modelling."""

    def rows(self, **options):
        batch = super().rows(**options)
        return batch._replace(targets=batch.tokens.roll(-1, dims=1))


SPOKEN = Spoken(steps=2, width=6, n_states=2)  # 14 tokens, windows of 6


class Spy(SleepCallback):
    """Records the windows that it was asked to sleep on."""

    def __init__(self, *args):
        super().__init__(*args)
        self.shapes = []

    def on_overflow(self, module, blocks, h, S):
        self.shapes.append(tuple(h.shape))
        return super().on_overflow(module, blocks, h, S)


@pytest.mark.parametrize("task", [TASK, Rule110(steps=1, width=3, n_states=3)])
@pytest.mark.parametrize("n_passes", [1, 3])
def test_it_fires_once_per_full_window_and_never_in_the_one_with_loss(run, task, n_passes):
    """The second task's prediction window is full, too: three answers in a window of three."""
    spy = Spy(n_passes)
    fitted(run(None, [spy], task=task, max_steps=4))
    assert spy.shapes == [(8, task.width, 16)] * (4 * task.n_states)
    assert spy.n_sleeps == 4 * task.n_states


def test_it_counts_sleeps_passes_and_time(run):
    callback = fitted(run(3, max_steps=4)).sleep
    assert callback.n_sleeps == 8
    assert (callback.sleeps_per_sequence, callback.passes_per_sequence) == (2, 6)
    assert callback.seconds_asleep > 0


def test_overflows_count_where_nobody_has_to_answer_them(run):
    callback = fitted(run(1, max_steps=4)).sleep
    assert (callback.n_sleeps, callback.sleeps_per_sequence, callback.seconds_asleep) == (8, 2, 0)


def test_an_answer_of_ones_own_is_asked_at_one_pass_in_training_and_validation(run):
    stages = []

    class Own(SleepCallback):
        def on_overflow(self, module, blocks, h, S):
            stages.append("train" if module.training else "val")
            return h, S

    cell = fitted(run(None, [Own()], max_steps=1))
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    assert stages[:2] == ["train"] * 2 and set(stages[2:]) == {"val"}


def test_passes_that_a_subclass_wraps_are_recorded_too(run):
    class Wrapping(SleepCallback):
        def on_overflow(self, module, blocks, h, S):
            return super().on_overflow(module, blocks.__call__, h, S)

    cell = run(None, [callback := Wrapping(3)])
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    assert len(callback.change) == 2


def test_a_batch_without_gradients_counts_alike_where_nobody_has_to_answer(run):
    cell = run(1)
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    assert (cell.sleep.n_sleeps, cell.sleep.seconds_asleep) == (6, 0)


def test_every_stage_counts_afresh(run):
    cell = fitted(run(2, max_steps=4, num_sanity_val_steps=1))
    assert cell.sleep.n_sleeps == 8
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    assert (cell.sleep.n_sleeps, cell.sleep.sleeps_per_sequence) == (6, 2)
    cell.trainer.test(cell.module, cell.data, verbose=False)
    assert cell.sleep.n_sleeps == 6
    cell.trainer.predict(cell.module, cell.data)
    assert (cell.sleep.n_sleeps, cell.sleep.sleeps_per_sequence) == (6, 2)


def test_it_records_how_much_each_pass_changes_S(run):
    cell = fitted(run(3, max_steps=2))
    assert cell.sleep.change == []  # not while training
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    batch = TASK.rows(split="val", seed=0, step=2, batch_size=8)
    trace = []

    def record(blocks, h, S):
        trace.clear()
        trace.append(S)
        for _ in range(2):
            h, S = blocks(h, S)
            trace.append(S)
        return h, S

    with torch.no_grad():
        read_windows(cell.module.model, batch.tokens, batch.targets, on_overflow=record)
    want = []
    for before, after in ((trace[0][0], trace[1][0]), (trace[1][0], trace[2][0])):
        rows = [float((after[b] - before[b]).norm() / after[b].norm()) for b in range(8)]
        want.append(pytest.approx([sum(rows) / 8], rel=1e-4))
    assert cell.sleep.change == want


def test_a_single_pass_changes_nothing(run):
    cell = run(1)
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    assert cell.sleep.change == [] and cell.sleep.n_sleeps == 6


@pytest.mark.parametrize("training", [True, False])
def test_its_sleep_is_the_plain_function(build, draw_tokens, training):
    model = build()
    module = L.LightningModule().train(training)
    h, S = model.blocks(model.embed(draw_tokens(2, 6)), model.init_fast_weights(2))
    got, want = SleepCallback(4).on_overflow(module, model.blocks, h, S), sleep(model.blocks, h, S, 4)
    assert torch.equal(got[0], want[0])
    assert all(map(torch.equal, got[1].states, want[1].states))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_passes": 0}, r"n_passes must be 1 or more \(the wake pass counts\), got 0"),
        ({"eviction": "soft"}, "eviction must be one of hard, sliding, got 'soft'"),
    ],
)
def test_a_bad_argument_is_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        SleepCallback(**arguments)


def warned(cell):
    """What a run warns of its sleep, and the step at which it does."""
    found = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cell.trainer.callbacks.append(At(caught, found))
        fitted(cell)
    said = [str(w.message) for w in caught if str(w.message).startswith("n_passes is ")]
    return found, said


class At(L.Callback):
    """Notes how many of these warnings there are before each step."""

    def __init__(self, caught, found):
        self.caught, self.found = caught, found

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.found.append(sum("n_passes is " in str(w.message) for w in self.caught))


def test_a_run_in_which_nothing_sleeps_says_so_before_its_first_step_and_at_its_end(run):
    before, said = warned(run(4, task=SPOKEN, max_steps=2))
    assert before == [1, 1] and len(said) == 2
    assert said[0] == (
        "n_passes is 4, but no window of the batch (14 tokens, windows of 6, loss in every full one) sleeps, so "
        "that it trains as with n_passes=1: a window sleeps where it is full and carries no loss (targets of -100 "
        "alone); --sleep.after_loss=true, in Python after_loss, lets those with loss sleep too"
    )
    assert said[1].startswith("n_passes is 4, but no window of this run sleeps")


@pytest.mark.parametrize("after_loss", [True, False])
def test_a_run_whose_rows_have_one_window_is_told_to_make_several(run, after_loss):
    """Where windows with loss may sleep already, or could not if they might."""
    _, said = warned(run(None, [SleepCallback(4, after_loss=after_loss)], task=SPOKEN, max_steps=2))
    assert len(said) == 2 * (not after_loss)
    task = OneWindow(steps=2, width=6, n_states=2)
    _, said = warned(run(None, [SleepCallback(4, after_loss=after_loss)], task=task, max_steps=2))
    assert "(6 tokens, windows of 6, loss in every full one)" in said[0]
    remedy = "rows have several windows with a smaller window_size or, of some tasks, a larger n_windows"
    assert said[0].endswith(remedy) and said[1].endswith(remedy) == after_loss == ("is followed by others" in said[1])


@pytest.mark.parametrize(("n_passes", "task"), [(1, SPOKEN), (4, TASK), (None, SPOKEN)])
def test_a_run_that_sleeps_or_was_not_asked_to_warns_of_nothing(run, n_passes, task):
    assert warned(run(n_passes, task=task, max_steps=2))[1] == []


def test_windows_with_loss_sleep_in_a_run_that_asks_for_it(run):
    sleeper = SleepCallback(3, after_loss=True)
    cell = run(None, [sleeper, RunReport()], task=SPOKEN, max_steps=2, log_every_n_steps=1)
    assert warned(cell)[1] == []
    assert (sleeper.n_sleeps, sleeper.sleeps_per_sequence) == (4, 2)
    assert cell.trainer.callback_metrics["sleeps_per_row"] == 2
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    batches = [SPOKEN.rows(split="val", seed=0, step=step, batch_size=8) for step in range(3)]
    with torch.no_grad():
        losses = [read_windows(cell.module.model, b.tokens, b.targets, 3, after_loss=True).loss for b in batches]
    torch.testing.assert_close(cell.trainer.callback_metrics["val/loss"], torch.stack(losses).mean())


@dataclass(frozen=True)
class Uneven(Spoken):
    """The first rows have one window, as short documents do."""

    def rows(self, *, step, **options):
        batch = super().rows(step=step, **options)
        tokens, targets = (x[:, : 14 if step else 6] for x in batch[:2])
        return batch._replace(tokens=tokens, targets=targets, mask=torch.ones_like(tokens, dtype=torch.bool))


class OneWindow(Spoken):
    sequence_length = 6

    def rows(self, **options):
        batch = super().rows(**options)
        return batch._replace(tokens=batch.tokens[:, :6], targets=batch.targets[:, :6])


def test_a_first_batch_of_one_window_says_nothing_of_a_run_with_longer_rows(run):
    sleeper = SleepCallback(3, after_loss=True)
    assert warned(run(None, [sleeper], task=Uneven(steps=2, width=6, n_states=2), max_steps=2))[1] == []
    assert sleeper.n_sleeps == 2


def test_two_sleep_callbacks_are_refused(run):
    cell = run(2, [SleepCallback(3)])
    with pytest.raises(ValueError, match=r"callbacks must hold one SleepCallback, got 2"):
        cell.trainer.fit(cell.module, cell.data)
