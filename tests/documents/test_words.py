"""How lists of shares, and where intervals lie, are written."""

import math

import pytest
from tests.documents.words import listed, percents, side

from lmsleep.figures.stats import Estimate


def test_where_an_interval_lies_is_said_of_intervals_alone():
    ends = [(0.1, 0.2), (-0.2, -0.1), (-0.1, 0.2), (0.0, 0.2)]
    assert [side(Estimate(0, *end, 3)) for end in ends] == ["above zero", "below zero", "around zero", "around zero"]
    with pytest.raises(ValueError, match="estimate must have an interval, got one of 1 seeds"):
        side(Estimate(0.1, math.nan, math.nan, 1))


def test_lists():
    assert (listed("abc"), percents([0.123]), percents([0.1, 0.2])) == ("a, b and c", "12.3 %", "10.0 and 20.0 %")
