"""Formats of shares, differences and counts in texts."""

import math
import re
from collections.abc import Sequence

from lmsleep.checks import counted as counted  # of these, too
from lmsleep.figures.stats import Estimate


def span(numbers: Sequence[int], things: str) -> str:
    """How many things there are, from the least to the most: 1 seed, 3 to 6 seeds."""
    least, most = min(numbers), max(numbers)
    return counted(most, things) if least == most else f"{least} to {most} {things}"


def percent(share: float, digits: int = 1) -> str:
    """0.123 -> 12.3 %."""
    return f"{100 * share:.{digits}f} %"


def signed(share: float, digits: int = 1) -> str:
    """0.123 -> +12.3, in percentage points; zero has no sign."""
    text = f"{100 * share:+.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def end(share: float) -> str:
    """The end of an interval in percentage points, with as many digits, up to three, as show on which side of zero it
    lies: 0.0003 -> +0.03."""
    texts = [signed(share, digits) for digits in (1, 2, 3)]
    return next((text for text in texts if float(text)), texts[0])


def interval(share: Estimate) -> str:
    """10.2 to 30.4 %; a dash if there is no interval."""
    return "–" if math.isnan(share.low) else f"{100 * share.low:.1f} to {100 * share.high:.1f} %"


def points(difference: Estimate) -> str:
    """A difference of shares in percentage points, +12.3 (+4.5 to +20.1); without interval, +12.3."""
    ends = "" if math.isnan(difference.low) else f" ({end(difference.low)} to {end(difference.high)})"
    return signed(difference.value) + ends


def nats(difference: Estimate) -> str:
    """A difference of losses, -0.0123 (-0.0145 to -0.0101); without interval, -0.0123."""
    ends = "" if math.isnan(difference.low) else f" ({difference.low:+.4f} to {difference.high:+.4f})"
    return f"{difference.value:+.4f}{ends}"


def readable(x: float) -> str:
    """1500000 -> 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:g}{unit}"
    return f"{x:g}"


def millions(tokens: float, digits: int = 0) -> str:
    """138000000 -> 138 M."""
    return f"{tokens / 1e6:,.{digits}f} M"


def probed(name: str) -> str:
    """What a probe reads: after_1_steps -> after 1 step."""
    return re.sub(r"\b1 (\w+)s$", r"1 \1", name.replace("_", " "))


def short_commit(commit: str, digits: int) -> str:
    """The first digits of a commit, with the + of one that the code differed from."""
    return commit[:digits] + ("+" if commit.endswith("+") else "")
