"""Tasks as plain values and back."""

import json
import sys
from dataclasses import replace
from typing import get_type_hints

import pytest

from lmsleep.tasks import Depo, GSMInfinite, Rule110, TextLM, TextQA
from lmsleep.tasks.gsm import MINI, DatasetConfig, ProblemConfig
from lmsleep.tasks.spec import build_task, is_ours, task_spec
from lmsleep.tasks.text_base import TextTask

PROBLEM = replace(MINI, length=(40, 60))


@pytest.mark.parametrize(
    "task",
    [
        Rule110(steps=7, width=12),
        Depo(test_hops=(1, 3), naming="words", word_lengths=(2, 2)),
        GSMInfinite(problem=PROBLEM),
    ],
)
def test_goes_through_json(task):
    assert build_task(json.loads(json.dumps(task_spec(task)))) == task


@pytest.mark.parametrize("path", ["os.system", "lmsleep.tasks.Task", "lmsleep.tasks.Batch", "lmsleep.tasks.base", None])
def test_only_tasks_of_the_package_are_built(path):
    with pytest.raises(ValueError, match=r"class_path of a task must be one of lmsleep.tasks.Depo, .*got"):
        build_task({"class_path": path})


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"init_args of .*Rule110 must hold the fields of .*Rule110: .*depth"):
        build_task({"class_path": "lmsleep.tasks.Rule110", "init_args": {"depth": 3}})
    for steps in ("4", 4.0, None):
        with pytest.raises(ValueError, match=f"^steps in init_args of .*Rule110 must be an integer, got {steps!r}$"):
            build_task({"class_path": "lmsleep.tasks.Rule110", "init_args": {"steps": steps}})
    for spec in (3, ["lmsleep.tasks.Rule110"], {"class_path": "lmsleep.tasks.Rule110", "init_args": [4]}):
        with pytest.raises(ValueError, match="must be"):
            build_task(spec)
    with pytest.raises(ValueError, match="steps must be 0 or more, got -1"):
        build_task({"class_path": "lmsleep.tasks.Rule110", "init_args": {"steps": -1}})


NUMBERS = (int, int | None, tuple[int, ...], tuple[int, int], tuple[int, int] | None)


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        pytest.param(kind, name, hint, id=f"{kind.__name__}-{name}")
        for kind in (Rule110, Depo, GSMInfinite, ProblemConfig, DatasetConfig, TextQA, TextLM)
        for name, hint in get_type_hints(kind).items()
        if hint in NUMBERS and "seed" not in name  # of which every one of 64 bits will do
    ],
)
@pytest.mark.parametrize("value", [10**9, 10**18, 10**30])
def test_a_number_that_no_memory_or_patience_holds_is_refused_by_name(kind, name, hint, value):
    given = {"train": __file__} if issubclass(kind, TextTask) else {}
    given |= {"naming": "words"} if name == "word_lengths" else {}
    got = value if hint in (int, int | None) else (1, value)
    with pytest.raises(ValueError, match=rf"^{name} must [^\n]*{value}\)?$"):
        kind(**given | {name: got})


def test_arguments_within_arguments_are_refused_by_name():
    spec = {"class_path": "lmsleep.tasks.GSMInfinite", "init_args": {"problem": {"op": [1, 2]}}}
    with pytest.raises(ValueError, match=r"^problem in init_args of .*GSMInfinite must hold the fields .*'op'"):
        build_task(spec)


def test_a_task_of_another_package_is_built_only_where_that_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "another_package.py").write_text(
        "from dataclasses import dataclass\nfrom lmsleep.tasks import Rule110\n\n"
        "@dataclass(frozen=True)\nclass Mine(Rule110):\n    more: int = 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"class_path": "another_package.Mine", "init_args": {"more": 3}}
    with pytest.raises(
        ValueError, match=r"lmsleep.tasks.Depo, .* as by `lmsleep demo --task another_package.Mine`, got"
    ):
        build_task(spec)
    assert "another_package" not in sys.modules  # the module is not even imported
    with pytest.raises(ValueError, match=r"or a Task of another package, .*, got 'another_package.Nothing'"):
        build_task("another_package.Nothing", from_anywhere=True)
    task = build_task(spec, from_anywhere=True)
    assert (type(task).__name__, task.more) == ("Mine", 3)


def test_only_tasks_of_the_package_are_ours():
    class Mine(Rule110):
        pass

    assert is_ours(Rule110(steps=1, width=4, n_states=2))
    assert not is_ours(Mine(steps=1, width=4, n_states=2))
