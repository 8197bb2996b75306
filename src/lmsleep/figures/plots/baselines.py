"""What guessing scores, as the stage `data` wrote it."""

from pathlib import Path

from lmsleep.checks import read_object, require, typed


def baselines(data: Path, kind: str) -> dict[str, float]:
    """The baselines of a kind, by slice. Raises ValueError if `data` has no such kind."""
    known = read_object(data / "baselines.json")
    require(kind in known, f"data must hold the baseline {kind!r}", str(data))
    return typed(dict[str, float], known[kind], f"{kind} in {data / 'baselines.json'}")
