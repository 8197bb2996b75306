"""Tasks as plain values and back."""

import json
from dataclasses import replace

import pytest

from lmsleep.tasks import Depo, GSMInfinite, Rule110
from lmsleep.tasks.gsm import MINI
from lmsleep.tasks.spec import build_task, is_ours, task_spec

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
    with pytest.raises(ValueError, match=r"init_args of lmsleep.tasks.Rule110 must be its arguments: .*depth"):
        build_task({"class_path": "lmsleep.tasks.Rule110", "init_args": {"depth": 3}})
    with pytest.raises(ValueError, match="steps must be 0 or more, got -1"):
        build_task({"class_path": "lmsleep.tasks.Rule110", "init_args": {"steps": -1}})


def test_only_tasks_of_the_package_are_ours():
    class Mine(Rule110):
        pass

    assert is_ours(Rule110(steps=1, width=4, n_states=2))
    assert not is_ours(Mine(steps=1, width=4, n_states=2))
