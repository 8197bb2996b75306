"""A short fit with each logger: what it keeps are the validation scores, overall and by slice."""

import json

import pandas as pd
import pytest

from lmsleep.cli import main

TASK = ["--data.task=Depo", "--data.task.init_args.max_nodes=6", "--data.task.init_args.max_hops=2"]
TASK += ["--data.task.init_args.test_hops=[1,2]", "--data.task.init_args.n_queries=2"]
TASK += [f"--data.task.init_args.{name}" for name in ("graph_length=24", "question_length=12", "window_size=12")]
RUN = [*TASK, "--model.model.d_model=16", "--model.model.pattern=AG", "--model.model.n_heads=2", "--sleep.n_passes=2"]
RUN += ["--data.batch_size=4", "--data.eval_rows=8", "--trainer.max_steps=2", "--trainer.val_check_interval=1"]
RUN += ["--trainer.check_val_every_n_epoch=null", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"]
RUN += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--checkpoint.dirpath=run"]
SCORES = ("loss", "answer_loss", "token", "exact", "count", "rows")
NAMES = {f"val/{score}{of}" for score in SCORES for of in ("", "-1", "-2")} | {"train/loss", "train/exact"}
LIGHTNING = "lightning.pytorch.loggers."


@pytest.fixture
def fit(empty_folder):
    """fit(logger, **options): a run of two steps in an empty folder, which has its configuration in the end."""

    def fit(logger, **options):
        main(["fit", *RUN, f"--trainer.logger={logger}", *(f"--trainer.logger.{k}={v}" for k, v in options.items())])

    return fit


def test_no_name_is_the_folder_of_another(fit, tmp_path):
    """Loggers that keep a metric in a file can put val/exact beside val/exact-1, and not beside val/exact/1."""
    fit(LIGHTNING + "CSVLogger", save_dir="logs", name="one", version=0)
    folder = tmp_path / "logs/one/version_0"
    names = set(pd.read_csv(folder / "metrics.csv").columns)
    assert names >= NAMES
    assert not [(a, b) for a in names for b in names if b.startswith(a + "/")]


def test_a_logger_without_a_folder_leaves_the_configuration_beside_the_checkpoint(fit, tmp_path):
    fit(LIGHTNING + "logger.DummyLogger")
    assert "n_passes: 2" in (tmp_path / "run/config.yaml").read_text()


def test_tensorboard(fit, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(LIGHTNING + "TensorBoardLogger", save_dir="logs", name="one", version=0)
    events = accumulator.EventAccumulator(str(tmp_path / "logs/one/version_0")).Reload()
    assert set(events.Tags()["scalars"]) >= NAMES
    assert [event.step for event in events.Scalars("val/exact-1")] == [0, 1]


def test_wandb_offline(fit, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(LIGHTNING + "WandbLogger", save_dir=".", offline="true")
    summary = dict(wandb.run.summary)
    wandb.finish()
    assert summary.keys() >= NAMES and list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize("store", ["sqlite:///mlflow.db", "file"])
def test_mlflow(fit, tmp_path, monkeypatch, store):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = f"file:{tmp_path}/mlruns" if store == "file" else store
    fit(LIGHTNING + "MLFlowLogger", tracking_uri=store, experiment_name="one")
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("one").experiment_id])
    assert run.data.metrics.keys() >= NAMES
    assert list(tmp_path.rglob("config.yaml"))


def test_dvclive(fit, tmp_path):
    pytest.importorskip("dvclive")
    fit("dvclive.lightning.DVCLiveLogger", save_dvc_exp="false", dir="live")
    kept = json.loads((tmp_path / "live/metrics.json").read_text())
    names = {f"{group}/{name}" for group in ("train", "val") for name in flat(kept[group])}
    assert names >= NAMES and (tmp_path / "run/config.yaml").is_file()


def flat(values, prefix=""):
    for name, value in values.items():
        yield from flat(value, f"{prefix}{name}/") if isinstance(value, dict) else [prefix + name]
