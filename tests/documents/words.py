"""Lists of shares, and where an interval lies, in sentences."""

import math
from collections.abc import Iterable

from lmsleep.figures.stats import Estimate

NUMERALS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def listed(words: Iterable[str]) -> str:
    """a, b and c."""
    return " and ".join(", ".join(words).rsplit(", ", 1))


def percents(shares: Iterable[float]) -> str:
    """0.123, 0.2, 0.3 -> 12.3, 20.0 and 30.0 %."""
    return f"{listed(f'{100 * share:.1f}' for share in shares)} %"


def each(shares: Iterable[float]) -> str:
    """Single scores, without digits: 95, 70, 21 %."""
    return f"{', '.join(f'{100 * share:.0f}' for share in shares)} %"


def side(difference: Estimate) -> str:
    """Where the interval of a difference lies. Raises ValueError if there is none, as of one seed."""
    if math.isnan(difference.low):
        raise ValueError(f"estimate must have an interval, got one of {difference.n} seeds")
    return {1: "above zero", -1: "below zero", 0: "around zero"}[difference.sign]
