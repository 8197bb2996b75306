"""The installed Lightning has all private parts that are used, and they are used in one file."""

import ast
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import ModelParallelStrategy

import lmsleep
from lmsleep.training import lightning_internals

SRC = Path(lmsleep.__file__).parent
PRIVATE = {
    "LightningCLI": ["_parse_ckpt_path"],
    "ModelCheckpoint": [
        "_find_last_checkpoints",
        "_monitor_candidates",
        "_save_checkpoint",
        "_save_topk_checkpoint",
        "_should_skip_saving_checkpoint",
    ],
    "ModelParallelStrategy": ["_save_distributed_checkpoint"],
    "epoch loop": ["_batches_that_stepped", "_broadcast_sigterm_tensor"],
    "signal connector": ["_sigterm_notifier_fn", "_slurm_sigusr_handler_fn"],
    "trainer": ["_signal_connector"],
}
NAMES = {name for names in PRIVATE.values() for name in names}


@pytest.fixture(scope="module")
def owners():
    """What each of `PRIVATE` stands for."""
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    classes = {one.__name__: one for one in (LightningCLI, ModelCheckpoint)}
    return classes | {
        "ModelParallelStrategy": ModelParallelStrategy(),
        "epoch loop": trainer.fit_loop.epoch_loop,
        "signal connector": trainer._signal_connector,
        "trainer": trainer,
    }


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in PRIVATE.items() for name in names])
def test_the_installed_lightning_has_every_private_part(owners, owner, name):
    assert hasattr(owners[owner], name)


def test_it_has_the_counts_that_are_written(owners):
    trainer = owners["trainer"]
    assert not trainer._signal_connector.received_sigterm
    counts = trainer.fit_loop.state_dict()
    assert {"completed", "ready"} <= counts["epoch_progress"]["current"].keys()
    assert counts["epoch_loop.batch_progress"].keys() >= {"total", "current"}
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    assert all(callable(getattr(progress, name)) for name in ("reset", "increment_ready", "increment_started"))


def of_others(path):
    """The private attributes and methods in a file of what is not its own `self`, `cls` or module."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            yield node.attr, ast.unparse(node.value)
        elif isinstance(node, ast.FunctionDef):
            yield node.name, "self"


def test_they_are_all_used_in_one_file():
    file = Path(lightning_internals.__file__)
    assert {name for name, _ in of_others(file)} >= NAMES - {"_save_distributed_checkpoint"}  # read by its name
    for path in SRC.rglob("*.py"):
        if path != file:
            assert not NAMES & {name for name, _ in of_others(path)}, path


@pytest.mark.parametrize("room", ["training", "commands", "data.py", "bench/scale.py", "figures/train.py"])
def test_no_other_private_part_is_used(room):
    of_lightning = ("trainer", "strategy", "loop", "signals", "connector", "bar", "cli")
    for path in [SRC / room, *(SRC / room).rglob("*.py")]:
        if path.suffix == ".py" and path != Path(lightning_internals.__file__):
            found = [(name, of) for name, of in of_others(path) if name.startswith("_")]
            assert not [(name, of) for name, of in found if of.rpartition(".")[2] in of_lightning], path
