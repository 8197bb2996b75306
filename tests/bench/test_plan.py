"""`lmsleep plan` reads what `lmsleep fit` reads, and loads nothing."""

import pytest
import torch
import yaml

from lmsleep.bench.plan import GPUS, main, read_run
from lmsleep.cli import main as lmsleep

RULE110 = [
    "--data.task=lmsleep.tasks.Rule110",
    "--data.task.steps=2",
    "--data.task.width=12",
    "--data.task.n_states=2",
]


def test_flags_and_files_of_fit_are_understood(tmp_path):
    file = tmp_path / "run.yaml"
    settings = {
        "model": {"model": {"d_model": 32, "pattern": "AG", "n_heads": 2}, "optimizer": {"muon_lr": 0.001}},
        "trainer": {"max_steps": 70, "accumulate_grad_batches": 4, "precision": "bf16", "devices": 2},
        "sleep": {"n_passes": 2},
    }
    file.write_text(yaml.safe_dump(settings))
    run, gpu, utilisation = read_run([*RULE110, f"--config={file}", "--sleep.n_passes=3", "--gpu=a6000"])
    assert (run.config.pattern, run.config.d_model, run.config.window_size) == ("AG", 32, 12)
    assert (run.steps, run.accumulate, run.precision, run.devices, run.n_passes) == (70, 4, "bf16-mixed", 2, 3)
    assert run.optimizer.muon_lr == 0.001 and (gpu, utilisation) == ("a6000", 0.1) and not run.sharded


def test_sharding_is_seen():
    strategy = ["--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy"]
    sizes = ["--trainer.strategy.data_parallel_size=4", "--trainer.strategy.tensor_parallel_size=1"]
    run, _, _ = read_run([*RULE110, *strategy, *sizes, "--trainer.devices=4", "--data.batch_size=8"])
    assert run.sharded and run.devices == 4


def test_it_prints_a_table_as_a_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lmsleep(["plan", *RULE110, "--trainer.max_steps=10", "--gpu=h200", "--utilisation=0.5"])
    out = capsys.readouterr().out
    for word in ("parameters", "optimizer", "activations", "fast weights", "memory", "tokens a step", "hours"):
        assert word in out
    assert "h200 at 50%" in out and "fits 141 GB" in out


@pytest.mark.parametrize("model", ["jet_nemotron_2b", "ouro_1_4b"])
def test_the_pretrained_models_are_planned_without_their_weights(model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    drawn = torch.get_rng_state()
    main([f"--config=configs/model/{model}.yaml", *RULE110, "--trainer.precision=bf16-mixed"])
    assert torch.equal(torch.get_rng_state(), drawn)
    count = {"jet_nemotron_2b": "1,964", "ouro_1_4b": "1,551"}[model]
    assert count in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--utilisation=0"], "utilisation must be above 0"),
        (["--sleep.n_passes=-3"], "n_passes must be 1 or more .*, got -3"),
        (["--trainer.devices=4", "--data.batch_size=6"], "batch_size must be divisible by the 4 devices, got 6"),
        (["--model.model.window_size=5"], "window_size of the model must be the task's 12"),
        (["--model.init_from=./nowhere"], "nowhere"),
    ],
)
def test_one_sentence_where_it_cannot_plan(flags, sentence):
    with pytest.raises(SystemExit, match=sentence):
        main([*RULE110, *flags])


def test_rates_are_plausible():
    assert all(1e14 < rate < 1e15 and 2e10 < memory < 2e11 for rate, memory in GPUS.values())
