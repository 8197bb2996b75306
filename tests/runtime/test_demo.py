"""The demo: its answers are those of `read_windows`, and it shows what it says it shows."""

import json
import logging
import re
import sys
import warnings
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from rich.console import Console

from lmsleep import HybridConfig
from lmsleep.cli import main as lmsleep
from lmsleep.hub import tokenizer_files
from lmsleep.runtime import demo_models
from lmsleep.runtime.demo import compare_answers, gain_text, share_text, show_answers
from lmsleep.settle import Settle, forget
from lmsleep.sleep import sleep
from lmsleep.tasks import Batch, Depo, Rule110, Task, TextLM, TextQA
from lmsleep.tasks.spec import task_spec
from lmsleep.windows import policy_name

DEPO = Depo(
    max_nodes=6,
    max_hops=2,
    test_hops=(1, 2),
    n_queries=3,
    graph_length=24,
    question_length=18,
    window_size=8,
    mask_padding=True,
)


def model_for(task, dtype=torch.float64, **options):
    torch.manual_seed(0)
    config = HybridConfig(d_model=16, pattern="AG", n_heads=2, zero_init=False, **options)
    return config.for_task(task.vocab_size, task.window_size).build().to(dtype)


def test_answers_from_an_emptied_memory_know_nothing_of_the_context():
    task = Rule110(steps=1, width=6, n_states=2)
    model = model_for(task)
    batches = [task.rows(split="test", seed=0, step=step, batch_size=64) for step in (0, 1)]
    same = Batch(torch.cat([batches[0].tokens[:, :12], batches[1].tokens[:, 12:]], dim=1), *batches[1][1:])

    def said(batch, on_overflow):
        return compare_answers(model, task, [batch], on_overflow, "hard")[1]

    assert said(same, forget) == said(batches[1], forget)
    for n_passes in (1, 3):
        asleep = partial(sleep, n_passes=n_passes)
        assert said(same, asleep) != said(batches[1], asleep)


def test_every_answer_of_a_row_is_told_apart():
    class TwoAnswers(Task):
        vocab_size, sequence_length, window_size, slices = 4, 8, 4, (0,)

        def rows(self, **_):
            targets = torch.tensor([[-100] * 4 + [1, 2, 3, -100], [-100] * 4 + [3, 0, 1, 1]])
            return Batch(torch.zeros(2, 8, dtype=torch.long), targets, torch.zeros(2))

        def answers(self, targets):
            return torch.tensor([[0, 0, 1, -1], [0, 1, 1, 2]])

    task = TwoAnswers()
    truth, says, rows = compare_answers(model_for(task), task, [task.rows()] * 2, partial(sleep, n_passes=2), "hard")
    assert rows == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert truth == [(1, 2), (3,), (3,), (0, 1), (1,)] * 2
    assert [len(answer) for answer in says] == [2, 1, 1, 2, 1] * 2


def test_shows_sleeps_and_answers_of_a_saved_model(tmp_path, capsys):
    task = Rule110(steps=1, width=6, n_states=3)
    trained = {"n_passes": 2, "eviction": "hard", "task": task_spec(task)}
    model_for(task, torch.float32).save_pretrained(tmp_path, trained=trained)
    lmsleep(["demo", "--model", str(tmp_path), "--n_passes", "4", "--rows", "20", "--pace", "0"])
    shown = capsys.readouterr().out
    assert len(re.findall(r"awake +window \d", shown)) == 3
    assert len(re.findall(r"pass 4/4, S changed by \d+% → \d+% → \d+%", shown)) == 3
    assert all(name in shown for name in ("asleep, N=4", "awake, N=1", "S to zero", "commonest"))
    assert len(re.findall(r"\d+\.\d%( \(\d+% to \d+%\))?", shown)) >= 4
    assert re.search(r"Asleep against awake, on the same 20 rows: [+-]\d+\.\d points", shown)


def test_another_sleep_is_shown_as_the_passes_that_it_makes(tmp_path, capsys):
    """One that never settles is N passes; and without a word of a training that slept so."""
    task = Rule110(steps=1, width=6, n_states=3)
    settle = Settle(0.0, 3)
    trained = {"on_overflow": policy_name(settle), "eviction": "sliding", "task": task_spec(task)}
    model_for(task, torch.float32).save_pretrained(tmp_path, trained=trained)
    shown = []
    with warnings.catch_warnings(action="error"):
        for how in (
            ["lmsleep.settle.Settle", "--on_overflow.threshold=0", "--on_overflow.most=3"],
            ["lmsleep.settle.forget"],
        ):
            lmsleep(["demo", "--model", str(tmp_path), "--rows=20", "--pace=0", "--on_overflow", *how])
            shown.append(capsys.readouterr().out)
    with pytest.warns(UserWarning, match="the model was trained with on_overflow lmsleep"):
        lmsleep(["demo", "--model", str(tmp_path), "--rows=20", "--pace=0", "--n_passes=3"])
    passes = capsys.readouterr().out
    for line in (r"pass 3/3, S changed by .*", r"The windows are gone.*", r"Asleep against awake.*"):
        assert re.findall(line, shown[0]) == re.findall(line, passes) != []
    assert "\nasleep: lmsleep.settle.Settle(threshold=0.0, most=3)\n" in shown[0] and "|S| = 0.00" in shown[1]


def test_the_gain_of_sleep_has_an_interval_over_rows():
    """Against a bootstrap over rows; rows count, not answers."""
    rng = np.random.default_rng(0)
    gains = rng.choice([-0.5, 0.0, 0.5, 1.0], 300, p=[0.1, 0.5, 0.2, 0.2])
    low, high = np.quantile(rng.choice(gains, (4000, 300)).mean(1), [0.025, 0.975])
    said = gain_text(gains)
    assert said.startswith("Asleep against awake, on the same 300 rows: ") and said.endswith(": better.")
    mean, *ends = (float(x) / 100 for x in re.findall(r"[+-]\d+\.\d", said))
    assert mean == pytest.approx(gains.mean(), abs=5e-4) and ends == pytest.approx([low, high], abs=6e-3)
    assert gain_text(-gains).endswith(": worse.") and gain_text(gains - gains.mean()).endswith(": undecided.")
    assert gain_text(np.zeros(5)).endswith("on the same 5 rows: +0.0 points, the same in each.")


@pytest.mark.parametrize(("right", "rows"), [(0, 20), (13, 20), (400, 400)])
def test_a_share_has_wilsons_interval(right, rows):
    """Its ends are the shares p that lie 1.96 of their own standard errors from the one seen."""
    low, high = (float(end) / 100 for end in re.findall(r"\((\d+)% to (\d+)%\)", share_text(right / rows, rows))[0])
    p = np.linspace(1e-6, 1 - 1e-6, 200_001)
    inside = p[abs(right / rows - p) <= 1.959964 * np.sqrt(p * (1 - p) / rows)]
    assert (low, high) == pytest.approx((inside[0], inside[-1]), abs=6e-3)


def test_trains_a_small_model_and_keeps_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(demo_models.DEMO_TASKS, "depo", demo_models.DEMO_TASKS["depo"]._replace(steps=2))
    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = lightning.level
    lmsleep(["demo", "--task", "depo", "--rows", "8", "--pace", "0", "--save", str(tmp_path / "model")])
    assert lightning.level == level
    first = capsys.readouterr().out
    lmsleep(["demo", "--model", str(tmp_path / "model"), "--rows", "8", "--pace", "0"])
    again = capsys.readouterr().out
    assert again.split("awake", 1)[1] == first.split("awake", 1)[1]


@pytest.mark.parametrize("rows", [3, 400])
def test_stored_rows_are_shown_once_each_in_their_slice(tmp_path, capsys, rows):
    """A batch of them has rows of any slice, and there may be fewer than are asked for."""
    windows = [1, 1, 2, 3, 1, 3, 2, 1, 3, 3, 1]
    lines = [{"context": n * 4 * "wren ", "question": "?", "answer": "a"} for n in windows]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = TextQA(*[str(tmp_path / "a.jsonl")] * 3, window_size=24)
    readers = {"asleep": partial(sleep, n_passes=2), "awake": partial(sleep, n_passes=1)}
    show_answers(Console(width=120), model_for(task), task, readers, "hard", rows)
    text = capsys.readouterr().out
    table = {int(n): int(count) for n, count in re.findall(r"^│ +(\d) +│ +(\d+) +│", text, re.MULTILINE)}
    first = [int(task.rows(split="test", seed=0, step=i, batch_size=1).slice) for i in range(3)]
    assert task.slices == (1, 2, 3) and table == Counter(windows if rows == 400 else first)
    assert f"on the same {min(rows, len(windows))} rows" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", demo_models.DEMO_TASKS)
def test_the_small_models_need_their_sleep(name):
    model = demo_models.train_demo(name, n_passes=3)
    task = demo_models.DEMO_TASKS[name].task
    batches = [task.rows(split="test", seed=1, step=step, batch_size=500) for step in range(len(task.slices))]
    readers = (partial(sleep, n_passes=3), partial(sleep, n_passes=1), forget)
    found = [compare_answers(model, task, batches, on_overflow, "hard") for on_overflow in readers]
    asleep, awake, forgetful = (np.mean([*map(tuple.__eq__, truth, says)]) for truth, says, _ in found)
    assert asleep > 0.85
    assert awake < asleep - 0.1
    assert forgetful < 0.5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rows", "0"], "--rows must be 1 or more, got 0"),
        (["--n_passes", "0"], "--n_passes must be 1 or more"),
        (["--pace", "-1"], "--pace must be between 0 and 3600 seconds, got -1"),
        (["--pace=.nan"], "--pace must be between 0 and 3600 seconds, got nan"),
        (["--pace", "1e20"], "--pace must be between 0 and 3600 seconds, got 1e.20"),
        (["--model", "not here"], "--model must be a folder or a name on the Hugging Face hub"),
        (["--model", "x/y", "--task", "depo"], "--task must be left out with a model, .* got 'depo'"),
        (["--task", "parity.Parity"], "--task must be rule110 or depo without a model, got 'parity.Parity'"),
        (
            ["--on_overflow", "lmsleep.settle.forget"],
            "--on_overflow must be left out without a model, .* got .*forget'",
        ),
        (
            ["--model", "x/y", "--n_passes", "2", "--on_overflow", "lmsleep.settle.forget"],
            "--n_passes must be left out beside on_overflow, got 2",
        ),
        (["--model", "x/y", "--seed", "0"], "--seed must be left out with a model, .* got '0'"),
        (["--model", "x/y", "--save", "z"], "--save must be left out with a model, .* got 'z'"),
        (
            ["--save", f"{__file__}/model"],
            "--save must be a new or an existing folder, got .*test_demo.py is a file",
        ),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_read_or_trained(argv, message, capsys):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        lmsleep(["demo", *argv])
    assert not capsys.readouterr().out


def test_a_model_is_not_replaced_by_another(tmp_path):
    model_for(DEPO).save_pretrained(tmp_path)
    with pytest.raises(
        SystemExit, match=r"^error: --save must be a folder without model\.safetensors, .*README\.md, got"
    ):
        lmsleep(["demo", "--save", str(tmp_path)])


def test_a_model_without_a_task_is_refused(tmp_path):
    model_for(DEPO).save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: --model must have been saved with its task"):
        lmsleep(["demo", "--model", str(tmp_path)])


def test_a_model_of_free_text_is_refused_since_it_has_no_answers(tmp_path):
    (tmp_path / "book.txt").write_text("The wren by the mill is blue.\n" * 9)
    task = TextLM(str(tmp_path / "book.txt"), window_size=8)
    model_for(task, torch.float32).save_pretrained(tmp_path / "model", trained={"task": task_spec(task)})
    with pytest.raises(SystemExit, match=r"^error: --model must be of a task with answers, got TextLM, free text; "):
        lmsleep(["demo", "--model", str(tmp_path / "model")])


def test_a_model_of_an_own_task_is_shown_where_that_is_asked_for(tmp_path, monkeypatch, capsys):
    (tmp_path / "parity.py").write_text("from lmsleep.tasks import Rule110\n\n\nclass Parity(Rule110):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    task = Rule110(steps=2, width=4, n_states=2)
    folder = str(tmp_path / "model")
    spec = task_spec(task) | {"class_path": "parity.Parity"}
    model_for(task, torch.float32).save_pretrained(folder, trained={"task": spec})
    words = ["demo", "--model", folder, "--rows", "1", "--pace", "0"]
    with pytest.raises(SystemExit, match=r"by `lmsleep demo --task parity\.Parity`, got 'parity\.Parity'$"):
        lmsleep(words)
    assert "parity" not in sys.modules
    with pytest.raises(
        SystemExit, match=r"^error: --task must be that of the model, or left out, got 'json\.JSONDecoder'$"
    ):
        lmsleep([*words, "--task=json.JSONDecoder"])
    lmsleep([*words, "--task=parity.Parity"])
    assert "Parity(steps=2, width=4, n_states=2)" in capsys.readouterr().out


def test_a_model_of_texts_shows_words_with_the_tokenizer_of_its_folder(tmp_path, capsys):
    line = {"context": "The wren is [blue].", "question": "wren", "answer": "[blue]"}
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps(line)] * 12))
    task = TextQA(str(tmp_path / "train.jsonl"), window_size=40)
    spec = task_spec(task)
    spec["init_args"]["tokenizer"] = "where it was made"
    folder = tmp_path / "model"
    model_for(task, torch.float32).save_pretrained(folder, trained={"task": spec}, files=tokenizer_files("bytes"))
    lmsleep(["demo", "--model", str(folder), "--n_passes", "2", "--rows", "1", "--pace", "0"])
    shown = capsys.readouterr().out
    assert "window 1: The wren is [blue]." in shown  # and none of the padding
    assert "│  [blue] │" in shown
