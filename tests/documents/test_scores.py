"""Scores of committed tables: the tests of runs against sums done by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests.documents.scores import ahead, average_runs, last_validations, mean, paired_p, welch

from lmsleep.figures.words import percent


def test_welch_s_test_is_that_of_welch_and_satterthwaite():
    """Welch, Biometrika 34 (1947) 28-35: the difference of two means has t of as many degrees of freedom as follow."""
    values, base = pd.Series([0.9, 0.5, 0.7]), pd.Series([0.2, 0.25, 0.3, 0.35])
    a, b = (part.var() / len(part) for part in (values, base))
    error, freedom = math.sqrt(a + b), (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
    half = stats.t.ppf(0.975, freedom) * error
    difference, p = welch(values, base)
    assert tuple(difference) == pytest.approx((0.425, 0.425 - half, 0.425 + half, 3))
    assert p == pytest.approx(2 * stats.t.cdf(-0.425 / error, freedom))


def test_a_paired_test_of_runs_that_agree_is_no_test():
    values = pd.Series([0.5, 0.7, 0.6])
    assert paired_p(values, values) == 1
    # Differences of 0.1, 0.2 and 0.3: t = 0.2 / (0.1 / sqrt 3), of two degrees of freedom.
    assert paired_p(values + pd.Series([0.1, 0.2, 0.3]), values) == pytest.approx(2 * stats.t.cdf(-2 * math.sqrt(3), 2))


def runs(*rows):
    return pd.DataFrame(rows, columns=["slice", "n_passes", "seed", "value"])


def test_the_runs_of_a_seed_are_averaged_before_they_are_paired():
    first = runs(*((8, n, seed, n / 10 + seed / 100) for n in (1, 4) for seed in (0, 1, 2)))
    again = runs((8, 1, 0, 0.3), (8, 4, 0, 0.4))
    both = average_runs(first, again)
    assert both[both.seed == 0].value.to_list() == pytest.approx([0.2, 0.4])
    gains = np.array([0.2, 0.3, 0.3])
    half = stats.t.ppf(0.975, 2) * gains.std(ddof=1) / math.sqrt(3)
    assert tuple(ahead(both, 4)) == pytest.approx((gains.mean(), gains.mean() - half, gains.mean() + half, 3))


@pytest.mark.parametrize("first", [0.574625, math.nextafter(0.574625, 0)])
def test_the_last_bit_of_a_seed_s_mean_chooses_no_text(first):
    """Versions of pandas differ in it, as they add up a seed's slices. The mean over these seeds is 55.25 %."""
    shares = (first, 0.57425, 0.508625)
    table = runs(*((8, 4, seed, share) for seed, share in enumerate(shares)))
    assert percent(mean(table).value) == "55.2 %"  # to an even digit, as Python rounds what is halfway


def test_the_last_validation_is_each_run_s_own(tmp_path):
    rows = [("8", 1, 0, 10, 0.1), ("8", 1, 0, 20, 0.2), ("8", 4, 0, 10, 0.3), ("all", 4, 0, 30, 0.4)]
    table = pd.DataFrame(rows, columns=["slice", "n_passes", "seed", "tokens", "value"]).assign(metric="val_exact")
    table.to_csv(tmp_path / "runs.csv", index=False)
    assert last_validations(tmp_path / "runs.csv").value.to_list() == [0.2, 0.3]
