"""The learning curve has a row for each validation, and one at the end of a run that is shorter than their interval."""

import pandas as pd
import pytest

from lmsleep.training import LearningCurve

from .conftest import fitted


@pytest.mark.parametrize(
    ("interval", "accumulate", "steps"), [(2, 1, [2, 4, 6]), (4, 1, [4]), (100, 1, [6]), (100, 2, [6])]
)
def test_steps_and_tokens_of_every_validation(run, tmp_path, interval, accumulate, steps):
    curve = LearningCurve(str(tmp_path / "curve.csv"))
    cell = fitted(run(2, [curve], val_check_interval=interval, accumulate_grad_batches=accumulate))
    table = pd.read_csv(tmp_path / "curve.csv")
    assert table.step.tolist() == steps
    assert table.tokens.tolist() == [8 * accumulate * cell.data.task.sequence_length * step for step in steps]
