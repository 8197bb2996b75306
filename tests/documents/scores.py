"""Scores from tables of results, a row for each run and slice, and their means and differences."""

import math
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, ttest_ind, ttest_rel

from lmsleep.figures.stats import LEVEL, Estimate, mean_difference, mean_share, per_slice

DIGITS = 12  # behind the point, as of the numbers of a figure (`lmsleep.figures.stats.rounded`)


@cache
def read(path: Path) -> pd.DataFrame:
    """A table of results or of other runs, slices as text."""
    return pd.read_csv(path, dtype={"slice": str})


def scores(path: Path, metric: str = "test_exact", **where: object) -> pd.DataFrame:
    """The rows of one metric for single slices, slices as numbers, with these values in other columns."""
    runs = per_slice(read(path), metric)
    for column, value in where.items():
        runs = runs[runs[column] == value]
    return runs


def last_validations(path: Path, metric: str = "val_exact") -> pd.DataFrame:
    """The last validation of each run."""
    runs = scores(path, metric)
    return runs.loc[runs.groupby(["n_passes", "seed", "slice"]).tokens.idxmax()]


def averages(runs: pd.DataFrame, by: str | list[str] = "seed") -> pd.Series:
    """Mean scores by columns, without the last digits, in which versions of pandas differ."""
    return runs.groupby(by).value.mean().round(DIGITS)


def average_runs(*sets: pd.DataFrame) -> pd.DataFrame:
    """One score for each slice, N and seed: the mean over the runs of a seed in all sets."""
    return averages(pd.concat(sets), ["slice", "n_passes", "seed"]).reset_index()


def passes(runs: pd.DataFrame) -> list[int]:
    """The values of N, sorted."""
    return sorted(map(int, runs.n_passes.unique()))


def steady(estimate: Estimate) -> Estimate:
    """The estimate with a mean of as many digits: where it lies halfway between two texts, as 55.25 % does, the last
    bits would choose."""
    return estimate._replace(value=round(estimate.value, DIGITS))


def mean(runs: pd.DataFrame, n: int | None = None) -> Estimate:
    """Mean share over seeds, of one N if given; a seed's runs and slices are averaged first."""
    runs = runs if n is None else runs[runs.n_passes == n]
    return steady(mean_share(averages(runs)))


def means(runs: pd.DataFrame, columns: Sequence[int] = (1, 2, 4)) -> list[float]:
    """The means of these N over seeds."""
    return [mean(runs, n).value for n in columns]


def ahead(runs: pd.DataFrame, n: int, base: int = 1) -> Estimate:
    """How far N = n is above N = base, paired by seed, over all slices together."""
    value, base_value = (averages(runs[runs.n_passes == m]) for m in (n, base))
    return steady(mean_difference((value - base_value).dropna()))


def row_error(rows: int) -> float:
    """Half a 95 % interval over so many rows, in points, where it is widest: at a share of one half."""
    return float(100 * norm.ppf((1 + LEVEL) / 2) * math.sqrt(0.25 / rows))


def welch(values: pd.Series, base: pd.Series) -> tuple[Estimate, float]:
    """How far the mean of `values` is above that of `base`, runs not paired, and the p of Welch's t test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all runs of an arm may score the same
        test: Any = ttest_ind(values, base, equal_var=False)
    low, high = test.confidence_interval(LEVEL)
    return steady(Estimate(values.mean() - base.mean(), low, high, len(values))), float(test.pvalue)


def paired_p(values: pd.Series, base: pd.Series) -> float:
    """The p of the t test of differences paired by seed; 1 if no seed differs."""
    test: Any = ttest_rel(values, base)
    return 1.0 if np.allclose(values, base) else float(test.pvalue)
