"""Means, paired differences and 95 % intervals.

| of | interval | over |
|---|---|---|
| a mean of shares over seeds | Student's t on the logit scale (`mean_share`) | seeds, three or more |
| the share of a single seed | Wilson's (`wilson`) | rows, since the answers of a row are not independent |
| a difference of shares, paired by seed | Student's t, clipped to -1 to 1 (`mean_difference`) | seeds, three or more |
| a loss | Student's t, clipped at 0 (`mean_loss`) | seeds, three or more |
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from scipy import special, stats

LEVEL = 0.95
FEWEST = 3  # seeds with an interval: one of two is as wide as the scale
HELPS, HURTS, UNDECIDED = "helps", "hurts", "undecided"
MORE, LESS = "more", "less"
STEPS, OPERATIONS = "equal steps", "up to equal operations"  # after which losses on text are compared


class Estimate(NamedTuple):
    """A mean with the ends of its 95 % interval, from n values; NaN where there is no interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, record: Mapping[Any, Any], prefix: str = "") -> Self:
        """The estimate in a record of a figure's numbers, its ends under `prefix`low and `prefix`high."""
        low, high = (record.get(f"{prefix}{end}") for end in ("low", "high"))
        return cls(record["value"], math.nan if low is None else low, math.nan if high is None else high, record["n"])

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below zero, else 0, also if there is none."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def bars(self) -> list[list[float]] | None:
        """How far the ends lie from the mean, as Matplotlib's error bars take it."""
        return None if math.isnan(self.low) else [[self.value - self.low], [self.high - self.value]]


Mean = Callable[[pd.Series], Estimate]


def wilson(share: float, n: int) -> Estimate:
    """Wilson score interval of a share over n independent examples (Wilson 1927, equation 8). Raises ValueError if
    there are none."""
    if n < 1:
        raise ValueError(f"n must be 1 or more, got {n}")
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def over_seeds(values: np.ndarray | pd.Series, least: float = -math.inf, most: float = math.inf) -> Estimate:
    """Mean and t interval over seeds of values (n,), clipped to what these can be at `least` and at `most`; fewer than
    FEWEST have no interval."""
    values = np.asarray(values, dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < FEWEST:
        return Estimate(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    low, high = np.clip([mean - half, mean + half], least, most)
    return Estimate(mean, float(low), float(high), n)


mean_difference = partial(over_seeds, least=-1.0, most=1.0)  # of shares
mean_loss = partial(over_seeds, least=0.0)


def mean_share(shares: np.ndarray | pd.Series, rows: float = math.nan) -> Estimate:
    """Mean over seeds of shares (n,), with the t interval on the logit scale, as in survey statistics for clusters.

    The ends are those of logit(m) ± t s / (m (1 - m)), with m the mean, s its standard error and t of n - 1 degrees of
    freedom. If all seeds agree, as at exactly 0 or 1, the ends are Wilson's over the `rows` that every seed was tested
    on, NaN if these are unknown. Fewer seeds than FEWEST have no interval.
    """
    mean = over_seeds(shares)
    if mean.n < FEWEST:
        return mean
    if np.ptp(shares) == 0:
        ends = mean._replace(low=math.nan, high=math.nan) if math.isnan(rows) else wilson(mean.value, int(rows))
        return ends._replace(n=mean.n)
    half = (mean.high - mean.value) / (mean.value * (1 - mean.value))
    low, high = special.expit(special.logit(mean.value) + np.array([-half, half]))
    return mean._replace(low=float(low), high=float(high))


def verdict(difference: Estimate, up: str = HELPS, down: str = HURTS) -> str:
    """`up`, `down` or UNDECIDED, by the interval of a difference."""
    return {1: up, -1: down, 0: UNDECIDED}[difference.sign]


def paired_differences(table: pd.DataFrame, by: str, base: int, within: list[str] | None = None) -> pd.DataFrame:
    """value(by = x) - value(by = base), paired by seed, since the same seed has the same batches.

    Args:
        table: with columns `by`, seed, value and those of `within`, one row for each combination.
        by: the column compared, such as n_passes.
        base: the reference value of `by`.
        within: columns of groups, such as slice.

    Returns:
        One row for each other value of `by` and group that has a seed in common with the base: value, low, high, n.
    """
    records = []
    for key, group in table.groupby(within) if within else [((), table)]:
        wide, names = group.pivot(index="seed", columns=by, values="value"), dict(zip(within or [], key, strict=True))
        for other in [x for x in wide.columns if x != base] if base in wide else []:
            if len(pairs := (wide[other] - wide[base]).dropna()):
                records.append({**names, by: other, "base": base, **mean_difference(pairs)._asdict()})
    return pd.DataFrame(records)


def per_slice(table: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """The rows of metrics for single slices, as numbers."""
    part = table[(table.slice != "all") & table.metric.isin(metrics)]
    return part.assign(slice=part.slice.astype(int))


def exact_accuracy(table: pd.DataFrame, keys: list[str]) -> list[dict[str, Any]]:
    """Exact accuracy on test rows for each combination of `keys`, slices as numbers: records with the mean and its
    interval over seeds (value, low, high, n), for a single seed the Wilson interval over rows (wilson_low, wilson_high;
    the rows of several models are no sample of one proportion), the `scores` of two, `answers` of all seeds and `rows`
    of one."""
    names = ["test_exact", "test_count", "test_rows"]
    wide = per_slice(table, *names).pivot(index=["slice", "n_passes", "seed"], columns="metric", values="value")
    wide = wide.reindex(columns=names).dropna(subset="test_exact").reset_index()
    records = []
    for key, group in wide.groupby(keys):
        rows = float(group.test_rows.max())  # every seed is tested on the same; not every one may say so
        share = mean_share(group.test_exact, rows)
        alone = len(group) == 1 and not math.isnan(rows)
        single = wilson(share.value, int(rows)) if alone else Estimate(math.nan, math.nan, math.nan, 0)
        row = dict(zip(keys, key, strict=True)) | share._asdict()
        row |= {"wilson_low": single.low, "wilson_high": single.high}
        row |= {"scores": group.test_exact.tolist()} if 1 < len(group) < FEWEST else {}
        records.append(row | {"answers": int(group.test_count.sum()), "rows": rows if math.isnan(rows) else int(rows)})
    return records


def means(scores: pd.DataFrame, keys: list[str], mean: Mean) -> list[dict[str, Any]]:
    """A record for each combination of `keys`: the mean over its seeds and the interval (value, low, high, n)."""
    groups = scores.groupby(keys).value
    return [dict(zip(keys, key, strict=True)) | mean(values)._asdict() for key, values in groups]


def compare_passes(table: pd.DataFrame, by_slice: bool = False) -> dict[str, Any]:
    """The numbers of a figure over N: `test_exact` is `exact_accuracy`, `difference` are paired differences from the
    smallest N (by slice if `by_slice`), `overall` the same over all slices together; `exact` and `ahead` are mean
    accuracy and `overall` by N, as metrics of DVC."""
    keys = ["slice", "n_passes"] if by_slice else ["n_passes"]
    exact = table[table.metric == "test_exact"]
    overall, base = exact[exact.slice == "all"], int(exact.n_passes.min())
    differences = paired_differences(per_slice(table, "test_exact"), "n_passes", base, ["slice"] if by_slice else None)
    ahead = paired_differences(overall, "n_passes", base).to_dict("records")
    return {
        "test_exact": exact_accuracy(table, keys),
        "difference": differences.to_dict("records"),
        "overall": ahead,
        "exact": {f"N={n}": value for n, value in overall.groupby("n_passes").value.mean().items()},
        "ahead": {f"N={record['n_passes']}": record["value"] for record in ahead},
    }


def compare_steps(table: pd.DataFrame) -> dict[str, Any]:
    """The numbers of a figure over steps t with one N: `test_exact` by slice, and `difference` from the least t."""
    scores = per_slice(table, "test_exact")
    differences = paired_differences(scores, "slice", int(scores.slice.min()))
    return {"test_exact": exact_accuracy(table, ["slice"]), "difference": differences.to_dict("records")}


def rounded(values: Any) -> Any:
    """The numbers of a figure, in lists and objects, as JSON has them: numpy's as plain ones, None where one is not
    finite, and ten digits, at most twelve behind the point: in the last ones machines and versions of numpy differ."""
    if isinstance(values, dict):
        return {str(key): rounded(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [rounded(value) for value in values]
    values = values.item() if isinstance(values, np.generic) else values
    if not isinstance(values, float):
        return values
    return float(f"{round(values, 12) + 0.0:.10g}") if math.isfinite(values) else None  # + 0.0: no -0.0
