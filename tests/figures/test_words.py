"""How numbers are written."""

import math

import pytest

from lmsleep.figures.stats import Estimate
from lmsleep.figures.words import counted, interval, millions, nats, points, probed, signed


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.1234, "+12.3"), (-0.05, "-5.0"), (0.0, "0.0"), (0.0004, "0.0"), (-0.0004, "0.0"), (0.0006, "+0.1")],
)
def test_differences_are_signed_points(share, text):
    assert signed(share) == text


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        ((0.1234, -0.0449, 0.3), "+12.3 (-4.5 to +30.0)"),
        ((-0.02, math.nan, math.nan), "-2.0"),
        ((0.263, 0.0003, 0.526), "+26.3 (+0.03 to +52.6)"),  # on which side of zero it lies shows
        ((0.0, -0.00004, 0.0), "0.0 (-0.004 to 0.0)"),
    ],
)
def test_a_difference_has_its_interval_if_there_is_one(estimate, text):
    assert points(Estimate(*estimate, 5)) == text


def test_losses_and_shares_have_their_intervals_too():
    loss, share = Estimate(-0.01234, -0.02, 0.0, 3), Estimate(0.2, 0.1016, 0.3044, 3)
    one = share._replace(low=math.nan, high=math.nan, n=1)
    assert (nats(loss), nats(one)) == ("-0.0123 (-0.0200 to +0.0000)", "+0.2000")
    assert (interval(share), interval(one)) == ("10.2 to 30.4 %", "–")


def test_counts():
    assert (millions(138_240_000), millions(40_140_800, 1)) == ("138 M", "40.1 M")
    assert [counted(n, "hops") for n in (1, 2)] == ["1 hop", "2 hops"]
    assert [probed(f"after_{k}_steps") for k in (1, 8)] == ["after 1 step", "after 8 steps"]
