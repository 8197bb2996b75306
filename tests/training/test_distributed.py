"""Two processes train as one does, replicated (DDP) and sharded (FSDP2), and end together."""

import json
import os
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from safetensors.torch import load_file
from tests.programs import start

from lmsleep.data import RowsDataModule
from lmsleep.tasks import Rule110
from lmsleep.training.ranks import check_strategy

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    done = start("distributed_runs", str(out), folder=out, env=env, output=str(out / "said"))
    done.join(400)
    assert done.exitcode == 0, (out / "said").read_text()[-3000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
@pytest.mark.parametrize(("what", "tolerance"), [("gradients", 1e-6), ("weights", 1e-4)])  # Muon lifts what is small
def test_two_processes_train_as_one(runs, strategy, what, tolerance):
    assert_same(runs, "one", strategy, what, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "tolerance"), [("gradients", 1e-6), ("weights", 1e-4)])
def test_processes_that_share_a_model_train_as_one_where_their_rows_have_loss_in_other_windows(runs, what, tolerance):
    assert_same(runs, "uneven-one", "uneven-sharded", what, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
@pytest.mark.parametrize(("what", "tolerance"), [("gradients", 1e-6), ("weights", 1e-4)])
def test_a_process_whose_rows_have_no_targets_takes_part_in_the_step(runs, strategy, what, tolerance):
    assert_same(runs, "half-one", f"half-{strategy}", what, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
@pytest.mark.parametrize("name", ["", "half-"])
def test_what_is_logged_of_a_step_is_of_the_rows_of_both(runs, strategy, name):
    one, two = (json.loads((runs / f"{name}{kind}.logged").read_text()) for kind in ("one", strategy))
    assert one["train/loss"] > 0 and two == pytest.approx(one, rel=1e-5)


def assert_same(runs, name_of_one, name_of_two, what, tolerance):
    one, two = (torch.load(runs / f"{name}.{what}", weights_only=True) for name in (name_of_one, name_of_two))
    assert one.keys() == two.keys()
    for name, value in one.items():
        at_zero = name.endswith("kernel_generator.w1.weight")  # before the first step of w2, which starts at zero
        assert value.norm() > 0 or (at_zero and what == "gradients"), name
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=tolerance * float(value.abs().max()), msg=name)


def ends(runs, name):
    return json.loads((runs / f"{name}.ends").read_text())


def saved_steps(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_of_two_processes_ends_both_with_a_checkpoint_of_a_whole_step(runs, rank):
    assert ends(runs, f"stopped{rank}") == [[143, ""]] * 2
    assert saved_steps(runs / f"stopped{rank}" / "last.ckpt") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sentence", "left"),
    [
        ("locked", r"^error: '.*locked' is in use by another run$", {}),
        ("full", r"^error: '.*probe.ckpt' cannot be used: no space left on device$", {}),
        ("filled", r"^error: '.*last.ckpt' cannot be used: no space left on device$", {"last.ckpt": 2}),
    ],
)
def test_what_stops_the_process_that_writes_stops_the_other_with_the_same_sentence(runs, name, sentence, left):
    (one, said), other = ends(runs, name)
    assert one == 1 and re.match(sentence, said) and other == [one, said]
    assert {path.name: saved_steps(path) for path in (runs / name).glob("*.ckpt")} == left


@pytest.mark.slow
def test_a_batch_without_targets_in_any_process_is_told_as_of_one(runs):
    sentence = "error: every batch of Unasked must have targets, got 'one without'"
    assert ends(runs, "unasked") == [[1, sentence]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_two_processes_tune_as_one_and_leave_the_same_folder(runs, strategy):
    """Whose validation and test batches differ in their windows."""
    one, two = (runs / f"tuned-{name}" for name in ("one", strategy))
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    weights, tuned = (load_file(folder / "model.safetensors") for folder in (one, two))
    before = load_file(runs / "model" / "model.safetensors")
    for name, value in weights.items():
        learned, again = value - before[name], tuned[name] - before[name]
        torch.testing.assert_close(again, learned, rtol=0, atol=2e-3 * float(learned.abs().max()), msg=name)
    logged = (pd.read_csv(folder / "version_0/metrics.csv").filter(regex="test/(loss|rows)") for folder in (one, two))
    tested, again = (table.iloc[-1] for table in logged)
    assert len(tested) >= 6
    pd.testing.assert_series_equal(again, tested, check_names=False, rtol=1e-5)


def held_out(ranks, strategy, rank=0, batch_size=4):
    data = RowsDataModule(Rule110(steps=2), batch_size=batch_size, eval_rows=20)
    data.trainer = SimpleNamespace(world_size=ranks, global_rank=rank, strategy=strategy)
    return [batch.tokens for batch in data.val_dataloader()]


def test_ranks_of_a_sharded_model_share_every_held_out_batch_and_others_take_them_in_turn():
    """Rows of batches differ in their windows, and a sharded model is gathered in each."""
    whole = held_out(1, None)
    shared, taken = ([held_out(2, strategy, rank) for rank in range(2)] for strategy in (ModelParallelStrategy(), None))
    assert len(whole) == 5 and [len(batches) for batches in (*shared, *taken)] == [5, 5, 3, 2]
    assert all(torch.equal(torch.stack(parts, 1).flatten(0, 1), b) for *parts, b in zip(*shared, whole, strict=True))
    assert all(torch.equal(taken[i % 2][i // 2], batch) for i, batch in enumerate(whole))
    sentence = r"^eval_batch_size must leave every batch of val a row for each of 3 ranks, and not 2, got 2$"
    with pytest.raises(ValueError, match=sentence):
        held_out(3, ModelParallelStrategy(), batch_size=2)
    sentence = r"^eval_batch_size must leave a batch of val for each of 6 ranks, and not 5 in all, got 4$"
    with pytest.raises(ValueError, match=sentence):
        held_out(6, None)


@pytest.mark.parametrize(
    ("ranks", "sharded", "size", "fits"),
    [(1, False, 20, True), (6, False, 4, False), (2, True, 2, True), (3, True, 2, False)],
)
def test_too_few_rows_for_all_ranks_can_be_found_before_a_run(ranks, sharded, size, fits):
    data = RowsDataModule(Rule110(steps=2), batch_size=size, eval_rows=20)
    strategy = ModelParallelStrategy() if sharded else None
    data.trainer = SimpleNamespace(world_size=ranks, global_rank=0, strategy=strategy)
    for split in ("val", "test"):
        refused = pytest.raises(ValueError, match=rf"^eval_batch_size must leave .*{split}.* {ranks} ranks")
        with nullcontext() if fits else refused:
            data.check_held_out(split)


def test_fsdp_that_flattens_is_refused():
    with pytest.raises(ValueError, match="must not be fsdp, which flattens the matrices that Muon orthogonalises"):
        check_strategy(FSDPStrategy())
