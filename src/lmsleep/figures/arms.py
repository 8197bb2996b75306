"""The arms of our controls and ablations, see configs/arms.yaml, and the verdicts on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from lmsleep.figures.stats import mean_difference, plain, side
from lmsleep.hub import typed

ARMS, TABLE = "arms", Path("configs/arms.yaml")  # the figure in params.yaml whose cells they are, and their settings
HELPS, HURTS, NEITHER = "helps", "hurts", "no difference seen at this budget"


@dataclass(frozen=True)
class Arm:
    """One entry of configs/arms.yaml, which says what its fields mean."""

    title: str
    arguments: tuple[str, ...]
    group: Literal["controls", "ablations"] | None = None
    question: str | None = None
    against: str = "n4"


def arms() -> dict[str, Arm]:
    """All arms by name.

    Raises:
        ValueError: if an entry of the table is none, or is compared with one that is not there.
    """
    entries = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    found = {name: typed(Arm, entry, f"{name} in {TABLE}") for name, entry in entries.items()}
    for name, arm in found.items():
        if arm.against not in found:
            raise ValueError(f"against of {name} in {TABLE} must be one of {', '.join(found)}, got {arm.against!r}")
    return found


def arm_of(run: Path) -> str:
    """The arm of a run folder: deep8 of deep8-s100."""
    return run.name.rpartition("-s")[0]


def verdict(low: float, high: float) -> str:
    """Of the interval of a difference: whether it lies wholly on one side of zero."""
    return {1: HELPS, -1: HURTS, 0: NEITHER}[side(low, high)]


def verdicts(table: pd.DataFrame, group: str) -> list[dict[str, Any]]:
    """A record for each arm of a group that the table has beside the one it is compared with.

    It holds the mean over seeds of its accuracy (`exact`), the difference to the other arm, paired by seed, with its
    interval, and the verdict.
    """
    exact = table[(table.figure == ARMS) & (table.metric == "test_exact") & (table.slice == "all")]
    wide, records = exact.pivot(index="seed", columns="model", values="value"), []
    for name, arm in arms().items():
        if arm.group == group and {name, arm.against} <= set(wide.columns):
            apart = mean_difference((wide[name] - wide[arm.against]).dropna())
            record = {"arm": name, "title": arm.title, "question": arm.question, "against": arm.against}
            record |= {"exact": wide[name].mean()} | apart._asdict() | {"verdict": verdict(apart.low, apart.high)}
            records.append(record)
    return plain(records)
