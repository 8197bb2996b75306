"""Formats of shares, differences and counts in texts."""

import math


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


def interval(low: float | None, high: float | None) -> str:
    """10.2 to 30.4 %; a dash if there is no interval."""
    if low is None or high is None or math.isnan(low):
        return "–"
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def points(value: float, low: float | None = None, high: float | None = None) -> str:
    """A difference of shares in percentage points, +12.3 (+4.5 to +20.1); without interval, +12.3."""
    if low is None or high is None or math.isnan(low):
        return signed(value)
    return f"{signed(value)} ({end(low)} to {end(high)})"


def nats(value: float, low: float | None = None, high: float | None = None) -> str:
    """A difference of losses, -0.0123 (-0.0145 to -0.0101); without interval, -0.0123."""
    if low is None or high is None or math.isnan(low):
        return f"{value:+.4f}"
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"


def readable(x: float) -> str:
    """1500000 -> 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:g}{unit}"
    return f"{x:g}"
