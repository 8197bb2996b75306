"""Intervals: Wilson for a proportion over examples, Student's t over seeds, paired by seed between values of N."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95 % interval, from n values."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """value, low, high and n."""
        return asdict(self)


def wilson(successes: float, n: int) -> Estimate:
    """Wilson score interval of a proportion over n examples."""
    if n < 1:
        raise ValueError(f"n must be 1 or more, got {n}")
    share, z = successes / n, float(stats.norm.ppf((1 + LEVEL) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def over_seeds(values: np.ndarray | pd.Series) -> Estimate:
    """Mean and t interval over seeds; the interval of a single value is not a number."""
    values = np.asarray(values, dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def paired_differences(table: pd.DataFrame, by: str, base: int, within: list[str] | None = None) -> pd.DataFrame:
    """value(by = x) - value(by = base) for each x, over the seeds that both have: the same seed saw the same batches.

    Args:
        table: rows with columns `by`, seed, value and those of `within`, one row for each combination.
        by: the column compared, such as n_passes.
        base: the value of `by` that others are compared with.
        within: columns kept apart, such as slice.

    Returns:
        One row for each other value of `by` (and group): value, low, high, n.
    """
    records = []
    groups = table.groupby(within, sort=True) if within else [((), table)]
    for key, group in groups:
        wide = group.pivot(index="seed", columns=by, values="value")
        if base not in wide:
            continue
        for other in [x for x in wide.columns if x != base]:
            estimate = over_seeds((wide[other] - wide[base]).dropna())
            names = dict(zip(within or [], key if isinstance(key, tuple) else (key,), strict=True))
            records.append({**names, by: other, "base": base, **estimate.as_dict()})
    return pd.DataFrame(records)


def exact_accuracy(table: pd.DataFrame, keys: list[str]) -> list[dict[str, Any]]:
    """Exact accuracy on test rows for each combination of `keys`, slices as numbers.

    Returns:
        Records with the mean and t interval over seeds (value, low, high, n), and the Wilson interval over the answers
        of a single seed (wilson_low, wilson_high): those of several models are no sample of one proportion. `answers`
        counts them over all seeds.
    """
    tested = table[(table.slice != "all") & table.metric.isin(["test_exact", "test_count"])]
    tested = tested.assign(slice=tested.slice.astype(int))
    wide = tested.pivot(index=["slice", "n_passes", "seed"], columns="metric", values="value").reset_index()
    records = []
    for key, group in wide.groupby(keys):
        right, count = float((group.test_exact * group.test_count).sum()), int(group.test_count.sum())
        single = wilson(right, count) if group.seed.nunique() == 1 else Estimate(math.nan, math.nan, math.nan, 0)
        row = dict(zip(keys, key, strict=True)) | over_seeds(group.test_exact).as_dict()
        records.append(row | {"wilson_low": single.low, "wilson_high": single.high, "answers": count})
    return plain(records)


def compare_passes(table: pd.DataFrame, by_slice: bool = False) -> dict[str, list[dict[str, Any]]]:
    """What texts quote of a figure over N.

    `test_exact` is `exact_accuracy`; `difference` holds the paired differences from the smallest N, by slice if
    `by_slice`; `overall` the same over the answers of all slices together.
    """
    keys = ["slice", "n_passes"] if by_slice else ["n_passes"]
    exact = table[table.metric == "test_exact"]
    single, overall = exact[exact.slice != "all"], exact[exact.slice == "all"]
    single, base = single.assign(slice=single.slice.astype(int)), int(exact.n_passes.min())
    differences = paired_differences(single, "n_passes", base, ["slice"] if by_slice else None)
    return {
        "test_exact": exact_accuracy(table, keys),
        "difference": plain(differences.to_dict("records")),
        "overall": plain(paired_differences(overall, "n_passes", base).to_dict("records")),
    }


def plain(records: list[dict[Any, Any]]) -> list[dict[str, Any]]:
    """Numbers that JSON knows; not-a-number becomes null."""
    return [
        {str(k): None if v != v else (v.item() if hasattr(v, "item") else v) for k, v in r.items()} for r in records
    ]
