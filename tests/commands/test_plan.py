"""`lmsleep plan` against the run itself: what its steps and validations cost."""

import time

import pytest
import torch

from lmsleep import HybridConfig, SleepModule
from lmsleep.cli import main as lmsleep
from lmsleep.commands.cost import StepTimer
from lmsleep.commands.plan import PlanCLI, main, plan_run

RULE110 = [
    "--data.task=lmsleep.tasks.Rule110",
    "--data.task.steps=2",
    "--data.task.width=12",
    "--data.task.n_states=2",
    "--data.batch_size=8",
    "--data.eval_rows=16",
    "--model.model.d_model=16",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=10",
]
pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_it_says_of_a_run_is_what_the_run_takes(monkeypatch, accumulate):
    """By a clock of its own: steps and validations that take a known time, the first of each more."""
    now, train, validate = [0.0], SleepModule.training_step, SleepModule.validation_step

    def slow_train(self, batch, batch_idx):
        now[0] += 7.0 if self.trainer.fit_loop.total_batch_idx == 0 else 0.5
        return train(self, batch, batch_idx)

    def slow_validate(self, batch, batch_idx):
        now[0] += 5.0 if self.trainer.fit_loop.total_batch_idx < 5 * accumulate else 3.0
        return validate(self, batch, batch_idx)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(SleepModule, "training_step", slow_train)
    monkeypatch.setattr(SleepModule, "validation_step", slow_validate)
    run = [*RULE110, f"--trainer.accumulate_grad_batches={accumulate}", "--trainer.max_steps=15"]
    run += [f"--trainer.val_check_interval={5 * accumulate}", "--trainer.check_val_every_n_epoch=null"]
    quiet = ["--trainer.logger=false", "--trainer.num_sanity_val_steps=0", "--trainer.enable_progress_bar=false"]
    cli = plan_run(PlanCLI, [*run, "--steps=5"])
    cli.measure()
    seconds = cli.clock.estimate(15 * accumulate, cli.validations())
    clock = StepTimer()
    monkeypatch.setattr("lmsleep.commands.fit.RunReport", lambda: clock)
    lmsleep(["fit", *run, *quiet, "--checkpoint.dirpath=run"])
    assert cli.validations() == len(clock.validations) == 3
    assert seconds == clock.validations[-1][1] - clock.started > 15


def test_it_prints_a_table_and_leaves_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "120")
    lmsleep(["plan", *RULE110, "--trainer.max_steps=10", "--steps=2", "--sleep.n_passes=2"])
    out = capsys.readouterr().out
    for words in ("parameters", "fast weights", "26 tokens", "a validation", "peak memory", "the run", "on cpu"):
        assert words.replace("26 tokens", "tokens a step") in out
    assert "AG" in out and "N = 2, hard eviction" in out and not list(tmp_path.iterdir())


def test_a_run_without_validation_is_measured_too(capsys):
    main([*RULE110, "--trainer.max_steps=10", "--steps=2", "--trainer.limit_val_batches=0"])
    assert "the run" in capsys.readouterr().out


@pytest.mark.parametrize("on", [True, False])
def test_it_names_checkpoints_only_where_the_run_makes_them(on, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    main([*RULE110, "--steps=2", f"--trainer.enable_checkpointing={str(on).lower()}"])
    out = capsys.readouterr().out
    assert "a validation" in out and ("each with a checkpoint" in out) == on


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
@pytest.mark.parametrize("absent", ["--device=meta", "--trainer.accelerator=gpu"])
def test_without_its_device_it_says_sizes_and_no_time(absent, capsys):
    main([*RULE110, absent])
    out = capsys.readouterr().out
    assert "parameters" in out and "operations a step" in out and "not measured" in out
    assert "hours" not in out and "minutes" not in out


@pytest.mark.parametrize("model", ["jet_nemotron_2b", "ouro_1_4b"])
def test_the_pretrained_models_are_planned_without_their_weights(model, capsys, monkeypatch, request):
    monkeypatch.setenv("COLUMNS", "120")
    main(
        [f"--config={request.config.rootpath}/configs/model/{model}.yaml", *RULE110[:6], *RULE110[7:], "--device=meta"]
    )
    count = {"jet_nemotron_2b": "1,964", "ouro_1_4b": "1,551"}[model]
    assert count in capsys.readouterr().out


def test_settings_beside_pretrained_weights_are_changes_to_their_model(tmp_path):
    sizes = HybridConfig(vocab_size=5, window_size=4, d_model=24, pattern="AAAA", n_heads=2)
    sizes.build().save_pretrained(tmp_path / "model")
    task = ["--data.task=Rule110", f"--model.init_from={tmp_path / 'model'}", "--model.model.pattern=AAjAA"]
    cli = plan_run(PlanCLI, [*task, "--device=meta"])
    config = cli.work().config
    assert (config.d_model, config.pattern, config.vocab_size) == (24, "AAjAA", 5)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--steps=1"], "steps must be 2 or more, got 1"),
        (["--trainer.max_steps=-1"], "--trainer.max_steps must be 1 or more to plan a run, got -1"),
        (["--trainer.fast_dev_run=true"], "--trainer.fast_dev_run must be false to plan a run, got true"),
        (
            ["--trainer.val_check_interval=0.5"],
            "--trainer.val_check_interval must be a number of batches .*, got 0.5",
        ),
        (["--sleep.n_passes=-3"], "n_passes must be 1 or more .*, got -3"),
        (["--model.model.window_size=5"], "window_size of the model must be the task's 12"),
        (["--model.init_from=./nowhere", "--model.model=null"], "nowhere"),
    ],
)
@pytest.mark.parametrize("device", ["own", "meta"])
def test_one_sentence_where_it_cannot_plan(flags, sentence, device):
    with pytest.raises(SystemExit, match=f"^error: .*{sentence}"):
        main([*RULE110, *flags, f"--device={device}"])
