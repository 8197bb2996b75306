"""A run that is refused leaves the folders that there were."""

from pathlib import Path

import pytest

from lmsleep.cli import main

TINY = ["--data.task=Rule110", "--data.task.steps=2", "--data.task.width=6", "--data.task.n_states=2"]
TINY += ["--model.model.d_model=16", "--data.batch_size=8", "--data.eval_rows=8", "--trainer.accelerator=cpu"]
TINY += ["--trainer.check_val_every_n_epoch=null", "--trainer.enable_progress_bar=false", "--trainer.max_steps=1"]
TINY += ["--trainer.val_check_interval=1", "--trainer.enable_model_summary=false", "--trainer.default_root_dir=out"]
LOGGED = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=out/logs", "--trainer.logger.name=", *TINY]
WARMUP = ["--trainer.callbacks+=WarmupStage", "--trainer.callbacks.steps=2", "--trainer.callbacks.train=nothing"]
NO_MATCH = "train of the warm-up stage must match the name of a parameter"
pytestmark = pytest.mark.usefixtures("empty_folder")


def everything():
    return sorted(map(str, Path().rglob("*")))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit", *LOGGED, "--checkpoint.dirpath=first"], "--checkpoint.dirpath must be a folder without last.ckpt"),
        (
            ["fit", *LOGGED, "--checkpoint.dirpath=out/a/b", *WARMUP],
            NO_MATCH,
        ),
        (
            ["fit", *TINY, *WARMUP],
            NO_MATCH,
        ),  # the trainer's own logger
        (
            ["fit", *TINY, *WARMUP, "--trainer.logger=false"],
            NO_MATCH,
        ),
        (["fit", *LOGGED, "--ckpt_path=first/last.ckpt", "--data.seed=5"], "--data.seed must be 0"),
        (["fit", *LOGGED, "--ckpt_path=first/last.ckpt", "--seed_everything=5"], "--seed_everything must be 0"),
        (["fit", *LOGGED, "--ckpt_path=first/last.ckpt", "--seed_everything=false"], "--seed_everything must be 0"),
        (["fit", *LOGGED, "--ckpt_path=first/last.ckpt", "--model.model.embedding_std=1"], "--.*_std must be 0.02"),
        (["test", *LOGGED, "--ckpt_path=first/last.ckpt", "--sleep.n_passes=2"], "--sleep.n_passes must be 1"),
        (["validate", *LOGGED, "--ckpt_path=first/last.ckpt", "--model.model.d_model=32"], "--model.* must be 16"),
    ],
)
def test_a_refused_run_leaves_no_folder(words, sentence):
    """Loggers make theirs before anything is checked."""
    main(["fit", *TINY, "--trainer.logger=false", "--checkpoint.dirpath=first"])
    before = everything()
    with pytest.raises(SystemExit, match=f"^error: {sentence}"):
        main(words)
    assert everything() == before


def test_a_folder_that_was_there_stays_though_it_is_empty():
    for folder in ("out/logs/version_0", "out/logs/version_1/mine", "out/checkpoints"):
        Path(folder).mkdir(parents=True)
    before = everything()
    with pytest.raises(SystemExit, match=r"^error: train of the warm-up stage must match"):
        main(["fit", *LOGGED, *WARMUP])
    assert everything() == before
