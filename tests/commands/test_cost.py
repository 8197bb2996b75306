"""The work of a step, from shapes, against what is known and counted of it."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmsleep import HybridConfig, read_windows
from lmsleep.commands.cost import StepWork
from lmsleep.tasks import Batch, Depo, Rule110
from lmsleep.windows import SleepSettings

TASK = Rule110(steps=2, width=24, n_states=2)


def work_of(pattern, n_passes, task=TASK, rows=8, wake_passes=1, **options):
    sizes = {"vocab_size": task.vocab_size, "window_size": task.window_size, "d_model": 64, "n_heads": 2}
    config = HybridConfig(pattern=pattern, zero_init=False, **(sizes | options))
    batch = task.rows(split="train", seed=0, step=0, batch_size=rows)
    return StepWork(config, batch, SleepSettings(n_passes, wake_passes=wake_passes))


def test_token_passes_of_the_paper_s_runs():
    for task, asleep, answers in ((Rule110(), 96, 4), (Depo(), 300, 60)):
        for n in (1, 4):
            work = work_of("AG", n, task, rows=2)
            assert (work.tokens, work.token_passes) == (2 * (asleep + answers), 2 * (asleep * n + answers))


def test_windows_with_loss_count_as_often_as_they_are_read():
    zeros = torch.zeros(2, 16, dtype=torch.long)
    batch, config = Batch(zeros, zeros, zeros[:, 0]), HybridConfig(vocab_size=3, window_size=6)
    once, often = (StepWork(config, batch, SleepSettings(4, after_loss=after_loss)) for after_loss in (False, True))
    assert (once.token_passes, often.token_passes) == (2 * 16, 2 * (12 * 4 + 4))


@pytest.mark.parametrize(
    ("pattern", "n_passes", "loop", "wake_passes"),
    [
        ("AG", 1, None, 1),
        ("AGAG", 3, None, 1),
        ("AGAG", 2, None, 2),
        ("AGAG", 3, (1, 3), 1),
        ("AGAG", 1, (1, 3), 2),
        ("WGJ", 2, None, 1),
        ("JA", 2, None, 2),
    ],
)
def test_operations_are_those_that_a_flop_counter_sees(pattern, n_passes, loop, wake_passes):
    work = work_of(pattern, n_passes, rows=2, loop=loop, sliding_window=6, wake_passes=wake_passes)
    model, batch = work.config.build(), work.batch
    with FlopCounterMode(display=False) as counter:
        loss = read_windows(model, batch.tokens, batch.targets, n_passes, wake_passes=wake_passes).loss
        forward = counter.get_total_flops()
        loss.backward()
    # The window form of the delta rule has a few products more than the recurrence.
    assert work.flops / 3 == pytest.approx(forward, rel=0.1)
    # Three times the forward: what no loss depends on, as the last features of a window, has no backward.
    assert counter.get_total_flops() < 1.1 * work.flops < 1.6 * counter.get_total_flops()


def test_batches_that_are_added_up_are_one_step():
    one, two = (StepWork(work.config, work.batch, work.sleeps, n) for work in [work_of("AG", 3)] for n in (1, 2))
    assert (two.tokens, two.token_passes, two.flops) == (2 * one.tokens, 2 * one.token_passes, 2 * one.flops)
