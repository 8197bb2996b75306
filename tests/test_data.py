"""Rows depend on (seed, split, step) alone: not on workers, ranks or where a run was resumed."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from lmsleep.data import BLOCK, RowsDataModule, TrainRows
from lmsleep.signals import outlive_signals
from lmsleep.tasks import Batch, Rule110, Task, check_task
from lmsleep.training import SleepModule

TASK = Rule110(steps=2, width=6, n_states=2)


@dataclass(frozen=True)
class Levels(Task):
    """Three difficulty levels: a held-out step draws one of them, in turn."""

    vocab_size, sequence_length, window_size, slices = 8, 4, 4, (1, 2, 3)

    def rows(self, *, split, seed, step, batch_size):
        level = torch.full((batch_size,), self.slices[step % 3])
        tokens = level[:, None].expand(-1, 4)
        return Batch(tokens, tokens, level, mask=tokens > 0)


def tokens(loader, n):
    return [batch.tokens for batch in islice(iter(loader), n)]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def train(n=6, trainer=None, **options):
    data = RowsDataModule(TASK, **({"batch_size": 4} | options))
    data.trainer = trainer
    return tokens(data.train_dataloader(), n)


def trainer(done=0, rank=0, ranks=1):
    """One that has read so many batches."""
    loop = SimpleNamespace(total_batch_idx=done - 1)
    return SimpleNamespace(fit_loop=loop, overfit_batches=0.0, global_rank=rank, world_size=ranks)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_number_of_workers_does_not_change_the_batches(num_workers):
    assert same(train(num_workers=num_workers), train())
    assert same(train(num_workers=num_workers, trainer=trainer(3)), train(9)[3:])


class Wide(Levels):
    """Rows of five tokens."""

    def rows(self, *, split, seed, step, batch_size):
        tokens = torch.full((batch_size, 5), step)
        return Batch(tokens, tokens, torch.full((batch_size,), step))


class Ragged(Levels):
    """Rows whose length, and whether they have a mask, change with the step."""

    def rows(self, *, split, seed, step, batch_size):
        level = torch.full((batch_size,), step)
        tokens = level[:, None].expand(-1, 1 + step % 3)
        return Batch(tokens, -tokens, level, mask=tokens > 5 if step % 2 else None)


def test_workers_hand_over_batches_of_any_shape():
    alone, helped = (RowsDataModule(Ragged(), batch_size=4, num_workers=n).train_dataloader() for n in (0, 2))
    batches = [list(islice(loader, 3 * BLOCK)) for loader in (alone, helped)]
    assert len(batches[0]) == 3 * BLOCK
    for wanted, batch in zip(*batches, strict=True):
        for x, y in zip(wanted, batch, strict=True):
            assert (x is None) == (y is None) and (x is None or torch.equal(x, y))


class Ending(Ragged):
    """Its rows end with step 4."""

    def __init__(self, error):
        self.error = error

    def rows(self, *, step, **options):
        if step > 4:
            raise self.error("no more")
        return super().rows(step=step, **options)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_run_ends_no_worker(signum):
    loader = iter(RowsDataModule(Rule110(steps=2), batch_size=4, num_workers=2).train_dataloader())
    alone = iter(RowsDataModule(Rule110(steps=2), batch_size=4).train_dataloader())
    for number, batch in zip(range(8 * BLOCK), loader, strict=False):
        assert torch.equal(batch.tokens, next(alone).tokens)
        if number == BLOCK + 1:  # both have begun
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signum)


def test_a_worker_that_is_slow_does_not_hold_up_the_end_of_the_program():
    """It is sent SIGTERM twice: by its loader, and by Python as it ends, which then waits for it."""
    begun = multiprocessing.Event()

    def draw():
        outlive_signals(0)
        begun.set()
        while True:
            time.sleep(1)

    worker = multiprocessing.Process(target=draw, daemon=True)
    worker.start()
    begun.wait()
    worker.terminate()
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(5)
    ended = worker.exitcode
    worker.kill()
    assert ended == -signal.SIGTERM


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize(("error", "raised"), [(KeyError, KeyError), (StopIteration, RuntimeError)])
def test_an_error_is_raised_when_its_batch_has_its_turn(num_workers, error, raised):
    loader = iter(RowsDataModule(Ending(error), batch_size=4, num_workers=num_workers).train_dataloader())
    assert [int(next(loader).slice[0]) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(raised):
        next(loader)


@pytest.mark.parametrize(("most", "blocks"), [(1, 5), (2 * 4 * 100, 3), (1 << 30, 1)])
def test_a_block_takes_little_memory(monkeypatch, most, blocks):
    """Of 5 batches of 160 bytes in tokens, as many in targets and 32 in slices: one a block, two or all."""
    monkeypatch.setattr("lmsleep.data.BLOCK_BYTES", most)
    monkeypatch.setattr("lmsleep.data.BLOCK", 5)
    monkeypatch.setattr("lmsleep.data.get_worker_info", lambda: SimpleNamespace(id=0, num_workers=1))
    rows = TrainRows(Wide(), 4, 0, lambda: 0)
    sizes = [len(block.shapes) for block in islice(rows, blocks)]
    assert sizes == [max(1, min(5, most // 352))] * blocks


def test_batches_are_the_task_s_rows_by_step():
    wanted = [TASK.rows(split="train", seed=7, step=i, batch_size=4).tokens for i in range(6)]
    assert same(train(seed=7), wanted)
    assert not any(map(torch.equal, train(seed=7), train(seed=8)))


def test_a_resumed_trainer_goes_on_where_it_stopped():
    assert same(train(3, trainer(2)), train(5)[2:])


def test_ranks_share_every_batch():
    parts = [train(3, trainer(rank=r, ranks=2)) for r in range(2)]
    for whole, *shares in zip(train(3), *parts, strict=True):
        assert sorted(whole.tolist()) == sorted(torch.cat(shares).tolist())
        assert torch.equal(whole[::2], shares[0]) and torch.equal(whole[1::2], shares[1])
    with pytest.raises(ValueError, match=r"^batch_size must be divisible by the 3 ranks, got 4$"):
        train(1, trainer(ranks=3))


def test_a_rank_also_gets_its_share_of_the_mask():
    data = RowsDataModule(Levels(), batch_size=4)
    data.trainer = trainer(ranks=2)
    batch = next(iter(data.train_dataloader()))
    assert batch.tokens.shape == batch.mask.shape == (2, 4) and batch.slice.shape == (2,)


def test_held_out_rows_are_the_same_for_every_seed_and_differ_from_training():
    one, two = (RowsDataModule(TASK, batch_size=8, seed=s, eval_rows=24) for s in (0, 5))
    val, test = tokens(one.val_dataloader(), 99), tokens(one.test_dataloader(), 99)
    assert same(val, tokens(two.val_dataloader(), 99)) and same(test, tokens(two.test_dataloader(), 99))
    assert same(test, tokens(one.predict_dataloader(), 99))
    assert len(val) == len(test) == 3
    assert not any(map(torch.equal, val, test))
    assert not any(map(torch.equal, val, tokens(one.train_dataloader(), 3)))


@pytest.mark.parametrize(("eval_rows", "batches"), [(1, 3), (12, 3), (13, 6), (24, 6)])
def test_every_slice_gets_the_same_number_of_held_out_rows(eval_rows, batches):
    data = RowsDataModule(Levels(), batch_size=16, eval_rows=eval_rows, eval_batch_size=4)
    levels = [int(batch.slice[0]) for batch in data.val_dataloader()]
    assert levels == [1, 2, 3] * (batches // 3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"eval_rows": 0}, "eval_rows must be 1 or more, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be 1 or more, got 0"),
        ({"num_workers": -1}, "num_workers must be 0 or more, got -1"),
        ({"batch_size": 10**18}, f"batch_size must be at most {2**20}, got {10**18}"),
        ({"batch_size": 16_000_000}, f"batch_size must be at most {2**20}, got 16000000"),
        ({"eval_rows": 10**18}, f"eval_rows must be at most {2**24}, got {10**18}"),
        ({"eval_batch_size": 10**18}, f"eval_batch_size must be at most {2**20}, got {10**18}"),
        ({"num_workers": 10**18}, f"num_workers must be at most 1024, got {10**18}"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"seed": 2**64}, f"seed must be at most {2**64 - 1}, got {2**64}"),
    ],
)
def test_a_bad_argument_is_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        RowsDataModule(TASK, **change)


@pytest.mark.parametrize("make", [RowsDataModule, SleepModule, check_task])
def test_a_task_of_another_class_is_refused(make):
    """One with the same fields lacks what `Task` adds to them."""
    expected = r"^task must be lmsleep\.tasks\.base\.Task, got namespace\("
    with pytest.raises(ValueError, match=expected):
        make(SimpleNamespace(vocab_size=3, sequence_length=14, window_size=6, slices=(1,)))
