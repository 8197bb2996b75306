"""A task that breaks its contract is told where, before a run; ours keep it."""

import importlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lmsleep.tasks import IGNORE, Batch, Depo, GSMInfinite, Rule110, TextLM, TextQA, check_task
from lmsleep.tasks.gsm import MINI, DatasetConfig, make_dataset


@dataclass(frozen=True)
class Good(Rule110):
    steps: int = 2
    width: int = 4
    n_states: int = 2


COUNT = itertools.count()


def rows(change):
    """`Good` with `change(batch)` in place of its rows."""
    return {"rows": lambda self, **asked: change(Rule110.rows(self, **asked))}


def sizes(**values):
    return {name: property(lambda self, value=value: value) for name, value in values.items()}


BROKEN = {
    "tokens must lie in the vocabulary 0..2, got 5 ": rows(lambda b: b._replace(tokens=b.tokens + 5)),
    "targets must lie in the vocabulary 0..2, got -900 ": rows(lambda b: b._replace(targets=b.targets * 9)),
    "tokens must be integers .*, got torch.float32": rows(lambda b: b._replace(tokens=b.tokens.float())),
    "targets must have the shape of tokens": rows(lambda b: b._replace(targets=b.targets[:, :-1])),
    "must be a Batch, got 'tuple'": rows(lambda b: tuple(b)[:2]),
    "targets must be other than -100 somewhere": rows(lambda b: b._replace(targets=torch.full_like(b.targets, IGNORE))),
    "tokens must have batch_size=8 rows, got 3": rows(lambda b: Batch(*(x[:3] for x in b[:3]))),
    r"tokens must be sequence_length=20 a row, got 10": sizes(sequence_length=20),
    r"tokens must be sequence_length=9 a row, got 10": sizes(sequence_length=9),
    r"slice must be one of \[0, 2\], got \[9\]": rows(lambda b: b._replace(slice=b.slice + 7)),
    "slice must be torch.int64 of shape": rows(lambda b: b._replace(slice=b.slice[:, None])),
    "mask must be bool, got torch.int64": rows(lambda b: b._replace(mask=torch.ones_like(b.tokens))),
    r"targets must lie in the same windows .* got window 1 with some in row 5, none in row 0$": rows(
        lambda b: b._replace(targets=b.targets.index_put((torch.tensor([5]), torch.tensor([6])), torch.tensor(0)))
    ),
    "answers must have the shape of targets": {"answers": lambda self, targets: targets[:, :-1]},
}
SIZES = {
    "vocab_size of the task must be an integer, got '3'": sizes(vocab_size="3"),
    "window_size of the task must be 1 or more, got 0": sizes(window_size=0),
    "slices of the task must be a tuple of one or more integers, got ()": sizes(slices=()),
}


@pytest.mark.parametrize("size", [0, -3, 2**20 + 1])
def test_a_batch_of_no_size_is_refused_by_every_task(tmp_path, monkeypatch, size):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    lines = [json.dumps({"context": "a wren", "question": "What?", "answer": "a bird"})] * 40
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_text("\n".join(lines))
    make_dataset(tmp_path / "gsm", DatasetConfig(MINI, train=12, val=4, test=4))
    questions, book = (str(tmp_path / name) for name in ("a.jsonl", "a.txt"))
    stored = GSMInfinite(path=str(tmp_path / "gsm"))
    own = importlib.import_module("copy_task").Copy()
    for task in (Rule110(), Depo(), GSMInfinite(), stored, TextQA(questions), TextLM(book, window_size=8), own):
        for split in ("train", "val"):
            with pytest.raises(ValueError, match=r"^batch_size must be (1 or more|at most 1048576), got "):
                task.rows(split=split, seed=0, step=0, batch_size=size)
        with pytest.raises(ValueError, match=r"^batch_size must be (1 or more|at most 1048576), got "):
            task.held_out_steps("val", size, 8)


def task_of(change):
    return type("Mine", (Good,), change)()


@pytest.mark.parametrize("sentence", BROKEN)
def test_rows_that_do_not_fit_are_named_with_their_split(sentence):
    with pytest.raises(ValueError, match=f"^Mine, rows of train: {sentence}"):
        check_task(task_of(BROKEN[sentence]))


@pytest.mark.parametrize("sentence", SIZES)
def test_sizes_that_do_not_fit_are_named(sentence):
    with pytest.raises(ValueError) as refused:
        check_task(task_of(SIZES[sentence]))
    assert str(refused.value) == sentence


def test_rows_that_differ_from_draw_to_draw_are_refused():
    task = task_of(
        {"rows": lambda self, **asked: Rule110.rows(self, **asked | {"step": next(COUNT)})},
    )
    with pytest.raises(ValueError, match=r"^Mine, rows of train must depend on split, seed and step alone"):
        check_task(task)


def test_a_fault_of_one_split_is_found():
    task = task_of(
        {
            "rows": lambda self, split, **asked: Rule110.rows(self, split=split, **asked)._replace(
                slice=torch.full((8,), 2 * (split != "test"))
            )
        }
    )
    with pytest.raises(ValueError, match=r"^Mine, rows of test: slice must be one of \[2\], got \[0\]"):
        check_task(task)


def test_our_tasks_keep_it(tmp_path):
    lines = [f'{{"context": "{"c" * n}", "question": "q{n}", "answer": "a"}}' for n in range(40, 90)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "text.txt").write_text("word " * 4000)
    qa = TextQA(train=str(tmp_path / "rows.jsonl"), window_size=40)
    lm = TextLM(train=str(tmp_path / "text.txt"), window_size=16, n_windows=2)
    for task in (Good(), Rule110(), Depo(), GSMInfinite(), qa, lm):
        check_task(task)
        with torch.device("meta"):  # rows are the CPU's, whatever torch's default device
            check_task(task)
