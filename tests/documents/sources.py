"""Scores from committed tables, and how texts write them."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t, ttest_rel

from lmsleep.figures import words
from lmsleep.figures.stats import LEVEL, Estimate, mean_share, paired_differences

DEPO_HOPS = 2  # where mini Depo's curves part; chosen after the runs, and the pages print all hops


@cache
def read(path: Path) -> pd.DataFrame:
    """A tidy table, slices as text."""
    return pd.read_csv(path, dtype={"slice": str})


def scores(path: Path, metric: str = "test_exact", tokens: int | None = None, **where: object) -> pd.DataFrame:
    """The rows of one metric for single slices, slices as numbers; at `tokens` alone if given."""
    table = read(path)
    part = table[(table.metric == metric) & (table.slice != "all")]
    for column, value in ({"tokens": tokens} if tokens else {}).items() | where.items():
        part = part[part[column] == value]
    return part.assign(slice=part.slice.astype(int))


def depo_runs(root: Path) -> pd.DataFrame:
    """Test scores of mini Depo: every seed of results/seeds, and most of them once more at an earlier commit, where
    another order of sums made them other runs, which column `again` tells apart."""
    now, earlier = (scores(root / f"results/seeds/{name}.csv") for name in ("fig3", "fig3_earlier"))
    return pd.concat([now.assign(again=0), earlier.assign(again=1)])


def count_runs(part: pd.DataFrame) -> int:
    """Runs of one N."""
    return len(part[["seed", "again"]].drop_duplicates())


def at_the_end(path: Path, metric: str = "val_exact") -> pd.DataFrame:
    """The last validation of each run."""
    part = scores(path, metric)
    return part.loc[part.groupby(["n_passes", "seed", "slice"]).tokens.idxmax()]


def mean(part: pd.DataFrame, n: int | None = None, level: int | None = None) -> Estimate:
    """Mean share over seeds, of one N and slice if given; over several slices, of their means."""
    part = part if n is None else part[part.n_passes == n]
    part = part if level is None else part[part.slice == level]
    return mean_share(part.groupby("seed").value.mean())  # a seed's runs are averaged first


def ahead(part: pd.DataFrame, n: int, base: int = 1) -> Estimate:
    """How far N = n is above N = base, paired by seed, over all slices together."""
    whole = part.groupby(["n_passes", "seed"])[["value"]].mean().reset_index()
    records = paired_differences(whole, "n_passes", base).to_dict("records")
    record = next(r for r in records if r["n_passes"] == n)
    return Estimate(*(record[key] for key in ("value", "low", "high", "n")))


def welch(values: pd.Series, base: pd.Series) -> tuple[Estimate, float]:
    """How far the mean of `values` is above that of `base`, runs not paired, and the p of Welch's t test."""
    apart = values.mean() - base.mean()
    ours, theirs = (part.var() / len(part) for part in (values, base))
    error = math.sqrt(ours + theirs)
    freedom = error**4 / (ours**2 / (len(values) - 1) + theirs**2 / (len(base) - 1))
    low, high = t.interval(LEVEL, freedom, apart, error)
    return Estimate(apart, low, high, len(values)), float(2 * t.sf(abs(apart) / error, freedom))


def paired_p(values: pd.Series, base: pd.Series) -> float:
    """The p of the t test of differences paired by seed; 1 if no seed differs."""
    return 1.0 if np.allclose(values, base) else float(ttest_rel(values, base).pvalue)


def average_runs(part: pd.DataFrame) -> pd.DataFrame:
    """One score for each slice, N and seed: the mean over the runs of a seed."""
    return part.groupby(["slice", "n_passes", "seed"])[["value"]].mean().reset_index()


def passes(part: pd.DataFrame) -> list[int]:
    """The values of N, sorted."""
    return sorted(map(int, part.n_passes.unique()))


def answers(part: pd.DataFrame, passes: tuple[int, ...] = (1, 2, 4)) -> str:
    """The means of these N: 12.3, 20.0 and 30.0 %."""
    return percents([mean(part, n).value for n in passes])


def percents(shares: list[float]) -> str:
    """0.123, 0.2, 0.3 -> 12.3, 20.0 and 30.0 %."""
    *first, last = (f"{100 * share:.1f}" for share in shares)
    return f"{', '.join(first)} and {last} %" if first else f"{last} %"


def ends(estimate: Estimate) -> str:
    """The interval of a share."""
    return words.interval(estimate.low, estimate.high)


def each(shares: pd.Series) -> str:
    """Single scores, without digits: 95, 70 and 21 %."""
    return f"{', '.join(f'{100 * share:.0f}' for share in shares)} %"


def points(estimate: Estimate) -> str:
    """A difference with its interval."""
    return words.points(estimate.value, estimate.low, estimate.high)


def in_words(count: int) -> str:
    """3 -> three."""
    return ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")[count]


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join(", ".join(words).rsplit(", ", 1))


def side(estimate: Estimate) -> str:
    """Where the interval of a difference lies.

    Raises:
        ValueError: if there is none, as of one seed.
    """
    if math.isnan(estimate.low):
        raise ValueError(f"estimate must have an interval, got one of {estimate.n} seeds")
    return "above zero" if estimate.low > 0 else "below zero" if estimate.high < 0 else "around zero"


def millions(tokens: float, digits: int = 0) -> str:
    """138000000 -> 138 M."""
    return f"{tokens / 1e6:,.{digits}f} M"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table, with its last line ended."""
    written = [f"| {' | '.join(line)} |\n".replace("|  ", "| ") for line in (header, *rows)]
    return "".join([written[0], "|---" * len(header) + "|\n", *written[1:]])
