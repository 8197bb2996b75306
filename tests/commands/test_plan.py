"""`lmsleep plan` against the run itself: what a step consists of, and what the steps and validations cost."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmsleep import HybridConfig, SleepModule, read_windows
from lmsleep.cli import main as lmsleep
from lmsleep.commands.cost import StepTimer, StepWork
from lmsleep.commands.plan import PlanCLI, main, plan_run
from lmsleep.memory import SleepSettings
from lmsleep.tasks import Batch, Depo, Rule110

TASK = Rule110(steps=2, width=24, n_states=2)
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


@pytest.mark.parametrize("wake_passes", [1, 4])
@pytest.mark.parametrize(
    ("pattern", "n_passes", "loop"),
    [("AG", 1, None), ("AGAG", 3, None), ("AGAG", 3, (1, 3)), ("WGJ", 2, None), ("JA", 2, None)],
)
def test_operations_are_those_that_a_flop_counter_sees(pattern, n_passes, loop, wake_passes):
    work = work_of(pattern, n_passes, loop=loop, sliding_window=6, wake_passes=wake_passes)
    forward, both = FlopCounterMode(display=False), FlopCounterMode(display=False)
    model, batch = work.config.build(), work.batch
    with torch.no_grad(), forward:
        read_windows(model, batch.tokens, batch.targets, n_passes, wake_passes=wake_passes)
    with both:
        read_windows(model, batch.tokens, batch.targets, n_passes, wake_passes=wake_passes).loss.backward()
    # The window form of the delta rule has a few products more than the recurrence.
    assert work.flops / 3 == pytest.approx(forward.get_total_flops(), rel=0.1)
    # Three times the forward: what no loss depends on, as the last features of a window, has no backward.
    assert both.get_total_flops() < 1.1 * work.flops < 1.6 * both.get_total_flops()


def test_batches_that_are_added_up_are_one_step():
    one, two = (StepWork(work.config, work.batch, work.sleeps, n) for work in [work_of("AG", 3)] for n in (1, 2))
    assert (two.tokens, two.token_passes, two.flops) == (2 * one.tokens, 2 * one.token_passes, 2 * one.flops)


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
    run = [*RULE110, f"--trainer.accumulate_grad_batches={accumulate}", "--trainer.max_steps=30"]
    run += [f"--trainer.val_check_interval={5 * accumulate}", "--trainer.check_val_every_n_epoch=null"]
    quiet = ["--trainer.logger=false", "--trainer.num_sanity_val_steps=0", "--trainer.enable_progress_bar=false"]
    cli = plan_run(PlanCLI, [*run, "--steps=5"])
    cli.measure()
    seconds = cli.clock.estimate(30 * accumulate, cli.validations())
    clock = StepTimer()
    monkeypatch.setattr("lmsleep.commands.fit.RunReport", lambda: clock)
    lmsleep(["fit", *run, *quiet, "--checkpoint.dirpath=run"])
    assert cli.validations() == len(clock.validations) == 6
    assert seconds == clock.validations[-1][1] - clock.started > 30


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


def test_settings_beside_pretrained_weights_are_changes_to_their_model(tmp_path, capsys):
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
        (["--trainer.max_steps=-1"], "max_steps of the trainer must be 1 or more to plan a run, got -1"),
        (["--trainer.fast_dev_run=true"], "fast_dev_run of the trainer must be false to plan a run, got True"),
        (
            ["--trainer.val_check_interval=0.5"],
            "val_check_interval .* must be a number of batches .*, got 0.5",
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
