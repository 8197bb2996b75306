"""Intervals against published values, the equation that defines them, and sums done by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import brentq

from lmsleep.figures.stats import (
    compare_passes,
    exact_accuracy,
    mean_difference,
    mean_loss,
    mean_share,
    means,
    over_seeds,
    paired_differences,
    per_slice,
    rounded,
    verdict,
    wilson,
)

Z = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    estimate = wilson(successes / n, n)
    assert estimate.low == pytest.approx(low, abs=5e-5)
    assert estimate.high == pytest.approx(high, abs=5e-5)
    assert (estimate.value, estimate.n) == (successes / n, n)


@pytest.mark.parametrize(("successes", "n"), [(1, 10), (7, 10), (40, 96), (1599, 1600)])
def test_the_ends_of_wilson_are_where_the_score_test_turns(successes, n):
    share = successes / n

    def beyond(p):
        return abs(share - p) - Z * math.sqrt(p * (1 - p) / n)

    estimate = wilson(successes / n, n)
    assert estimate.low == pytest.approx(brentq(beyond, 1e-12, share), abs=1e-9)
    assert estimate.high == pytest.approx(brentq(beyond, share, 1 - 1e-12), abs=1e-9)


def test_wilson_of_nothing_is_refused():
    with pytest.raises(ValueError, match="n must be 1 or more, got 0"):
        wilson(0.5, 0)


@pytest.mark.parametrize(
    ("values", "mean", "half"),
    # quantiles of Student's t from tables: 4.30265 (2 degrees of freedom), 2.77645 (4)
    [
        ([0.1, 0.2, 0.3], 0.2, 4.30265 * 0.1 / math.sqrt(3)),
        ([-0.2, -0.4, -0.4, -0.4, -0.6], -0.4, 2.77645 * math.sqrt(0.02) / math.sqrt(5)),
    ],
)
def test_a_mean_difference_has_the_t_interval(values, mean, half):
    estimate = mean_difference(np.array(values))
    assert estimate.value == pytest.approx(mean)
    assert estimate.low == pytest.approx(mean - half, rel=1e-5)
    assert estimate.high == pytest.approx(mean + half, rel=1e-5)
    assert estimate.n == len(values)


def test_the_interval_of_three_seeds_is_exact_beyond_the_digits_of_figures():
    """With two degrees of freedom the quantile at p is (2 p - 1) / sqrt(2 p (1 - p)), p being 0.975."""
    half = 0.95 / math.sqrt(2 * 0.975 * 0.025) / math.sqrt(3)
    estimate = over_seeds(np.array([1.0, 2.0, 3.0]))
    assert (estimate.low, estimate.high) == pytest.approx((2 - half, 2 + half), rel=1e-13)


def test_a_mean_difference_ends_where_differences_end():
    estimate = mean_difference(np.array([-0.5, 0.1, 0.7]))
    assert (estimate.low, estimate.high) == (-1, 1)


def test_a_mean_share_has_the_t_interval_of_its_logit():
    """By hand: m = 0.5, s = 0.1 / sqrt(3), m (1 - m) = 0.25, so logit(m) = 0 and the half width is 4 t s."""
    estimate = mean_share(np.array([0.4, 0.5, 0.6]))
    half = 4 * 4.30265 * 0.1 / math.sqrt(3)
    assert (estimate.value, estimate.n) == (pytest.approx(0.5), 3)
    assert estimate.low == pytest.approx(1 / (1 + math.exp(half)), rel=1e-5)
    assert estimate.high == pytest.approx(1 / (1 + math.exp(-half)), rel=1e-5)


@pytest.mark.parametrize("shares", [(0.832, 0.460, 0.359), (1.0, 0.9996, 1.0), (0.0, 0.0, 0.01), (0.2, 0.21, 0.2, 0.2)])
def test_a_mean_share_lies_in_its_interval_and_that_between_0_and_1(shares):
    """The oracle is scipy's t interval of a mean, taken through the derivative of the logit."""
    estimate, mean = mean_share(np.array(shares)), np.mean(shares)
    assert 0 < estimate.low < mean < estimate.high < 1
    low, high = stats.t.interval(0.95, len(shares) - 1, loc=mean, scale=stats.sem(shares))
    slope = 1 / (mean * (1 - mean))
    logits = np.log([estimate.low / (1 - estimate.low), estimate.high / (1 - estimate.high)])
    assert np.diff(logits) == pytest.approx((high - low) * slope, rel=1e-6)
    assert logits.mean() == pytest.approx(math.log(mean / (1 - mean)), abs=1e-6)


def test_shares_that_are_all_one_have_the_interval_of_the_rows():
    """Wilson's lower end at a share of 1 is n / (n + z^2)."""
    estimate = mean_share(np.ones(3), rows=100)
    assert (estimate.value, estimate.high) == (1, pytest.approx(1))
    assert estimate.low == pytest.approx(100 / (100 + Z**2))
    assert math.isnan(mean_share(np.ones(3)).low)


def test_seeds_that_agree_have_the_interval_of_the_rows():
    """Wilson's interval of a half is symmetric, of half-width z / (2 sqrt(n + z^2))."""
    estimate = mean_share(np.full(3, 0.5), rows=100)
    half = Z / (2 * math.sqrt(100 + Z**2))
    assert (estimate.low, estimate.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert math.isnan(mean_share(np.full(3, 0.5)).low)


def test_what_has_no_ends_keeps_its_t_interval():
    estimate, half = over_seeds(np.array([1.0, 2.0, 3.0])), 4.30265 / math.sqrt(3)
    assert (estimate.low, estimate.high) == (pytest.approx(2 - half, rel=1e-5), pytest.approx(2 + half, rel=1e-5))


@pytest.mark.parametrize("mean", [mean_share, mean_difference, mean_loss, over_seeds])
@pytest.mark.parametrize("seeds", [(0.25,), (0.125, 0.375), (0.25, 0.25)])
def test_fewer_than_three_seeds_have_no_interval(mean, seeds):
    """One of two has t of one degree of freedom: runs at 100.0 and 99.9 % would lie in 0.6 to 100.0 %."""
    estimate = mean(np.array(seeds))
    assert (estimate.value, estimate.n) == (0.25, len(seeds))
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert verdict(estimate) == "undecided"


def test_a_loss_has_the_t_interval_down_to_zero():
    half = 4.30265 * 0.1 / math.sqrt(3)
    for middle, low in ((1.0, 1.0 - half), (0.15, 0.0)):
        estimate = mean_loss(np.array([middle - 0.1, middle, middle + 0.1]))
        assert (estimate.low, estimate.high) == pytest.approx((low, middle + half), rel=1e-5)


def test_paired_differences_use_the_seeds_that_both_have():
    ones, fours = [(1, 0, 0.50), (1, 1, 0.60), (1, 2, 0.10), (1, 3, 0.30)], [(4, 0, 0.70), (4, 1, 0.90), (4, 3, 0.70)]
    table = pd.DataFrame(ones + fours, columns=["n_passes", "seed", "value"])
    (record,) = paired_differences(table, "n_passes", 1).to_dict("records")
    # differences 0.2, 0.3 and 0.4; seed 2 has no N = 4
    half = 4.30265 * 0.1 / math.sqrt(3)
    assert (record["n_passes"], record["base"], record["n"]) == (4, 1, 3)
    assert record["value"] == pytest.approx(0.3)
    assert record["low"] == pytest.approx(0.3 - half, rel=1e-5)
    assert record["high"] == pytest.approx(0.3 + half, rel=1e-5)


def test_paired_differences_keep_groups_apart_and_skip_those_without_the_base():
    rows = [(8, 1, 0, 0.1), (8, 4, 0, 0.4), (2, 1, 0, 0.9), (2, 4, 0, 0.8), (16, 4, 0, 0.3)]
    table = pd.DataFrame(rows, columns=["slice", "n_passes", "seed", "value"])
    records = paired_differences(table, "n_passes", 1, within=["slice"]).to_dict("records")
    assert [(r["slice"], r["n_passes"]) for r in records] == [(2, 4), (8, 4)]
    assert [r["value"] for r in records] == pytest.approx([-0.1, 0.3])


def test_runs_without_a_seed_in_common_have_no_difference():
    rows = [(1, 0, 0.1), (2, 1, 0.4), (4, 0, 0.3), (4, 1, 0.8)]
    table = pd.DataFrame(rows, columns=["n_passes", "seed", "value"])
    (record,) = paired_differences(table, "n_passes", 1).to_dict("records")
    assert (record["n_passes"], record["value"], record["n"]) == (4, pytest.approx(0.2), 1)


@pytest.fixture
def table():
    """Two slices with unequal numbers of answers, N = 1 and 4, two seeds."""
    exact = {  # (slice, N, seed): share right
        ("2", 1, 0): 0.5, ("2", 1, 1): 0.6, ("2", 4, 0): 0.7, ("2", 4, 1): 0.9,
        ("10", 1, 0): 0.1, ("10", 1, 1): 0.2, ("10", 4, 0): 0.1, ("10", 4, 1): 0.3,
        ("all", 1, 0): 0.2, ("all", 1, 1): 0.3, ("all", 4, 0): 0.25, ("all", 4, 1): 0.45,
    }  # fmt: skip
    rows = [(*place, "test_exact", value) for place, value in exact.items()]
    rows += [(*place, "test_count", 10 if place[0] == "2" else 30) for place in exact if place[0] != "all"]
    rows += [(*place, "test_rows", 5) for place in exact if place[0] != "all"]
    rows += [("2", 1, 0, "val_exact", 0.0), ("2", 1, 0, "cut_exact", 0.0)]  # other metrics, which must not count
    return pd.DataFrame(rows, columns=["slice", "n_passes", "seed", "metric", "value"])


def test_exact_accuracy_has_what_the_seeds_give_and_sorts_slices_as_numbers(table):
    records = exact_accuracy(table, ["slice", "n_passes"])
    assert [(r["slice"], r["n_passes"]) for r in records] == [(2, 1), (2, 4), (10, 1), (10, 4)]
    first = records[0]
    assert first["value"] == pytest.approx(0.55)
    assert math.isnan(first["low"]) and first["scores"] == [0.5, 0.6]  # of two seeds their scores, without an interval
    assert (first["answers"], first["rows"]) == (20, 5)
    assert math.isnan(first["wilson_low"]) and math.isnan(first["wilson_high"])  # two models are not one sample


def test_a_single_seed_has_the_wilson_interval_over_its_rows_not_its_answers(table):
    """Answers about one graph stand in one row, and are right or wrong together."""
    _, record = exact_accuracy(table[(table.seed == 1) & (table["slice"] == "2")], ["n_passes"])
    expected = wilson(0.9, 5)
    assert (record["n_passes"], record["answers"], record["rows"]) == (4, 10, 5)
    assert (record["wilson_low"], record["wilson_high"]) == pytest.approx((expected.low, expected.high))


def test_a_table_that_counts_no_rows_gives_a_single_seed_no_interval(table):
    (record, *_) = exact_accuracy(table[(table.seed == 1) & (table.metric != "test_rows")], ["slice", "n_passes"])
    assert math.isnan(record["wilson_low"]) and math.isnan(record["rows"]) and record["answers"] == 10


def test_compare_passes_by_slice_and_overall(table):
    numbers = compare_passes(table, by_slice=True)
    assert [(r["slice"], r["base"], r["n_passes"]) for r in numbers["difference"]] == [(2, 1, 4), (10, 1, 4)]
    assert [r["value"] for r in numbers["difference"]] == pytest.approx([0.25, 0.05])
    (overall,) = numbers["overall"]
    assert (overall["n_passes"], overall["base"], overall["n"]) == (4, 1, 2)
    assert overall["value"] == pytest.approx((0.05 + 0.15) / 2)


def test_mean_losses_are_those_over_seeds_for_each_level_and_not_below_zero():
    seeds = [(1, 0, 3.0), (1, 1, 1.0), (1, 2, 0.5), (4, 0, 0.5)]
    rows = [("2", n, seed, "test_loss", value) for n, seed, value in seeds]
    rows += [("all", 1, 0, "test_loss", 9.0), ("2", 1, 0, "test_exact", 9.0), ("2", 1, 0, "val_loss", 9.0)]
    table = pd.DataFrame(rows, columns=["slice", "n_passes", "seed", "metric", "value"])
    losses = per_slice(table, "test_loss", "test_answer_loss")
    several, one = means(losses, ["metric", "slice", "n_passes"], mean_loss)
    half = 4.30265 * math.sqrt(1.75) / math.sqrt(3)  # the quantile, the standard deviation and the root of three seeds
    assert (several["metric"], several["slice"], several["n_passes"], several["value"]) == ("test_loss", 2, 1, 1.5)
    assert 1.5 - half < 0 and (several["low"], several["high"]) == pytest.approx((0.0, 1.5 + half), rel=1e-5)
    none = {"low": None, "high": None, "n": 1}
    assert rounded(one) == {"metric": "test_loss", "slice": 2, "n_passes": 4, "value": 0.5} | none


def test_the_digits_in_which_machines_differ_are_left_out():
    """Sums of a tenth in another order, a difference that nearly cancels, and none at all."""
    one = {"a": [{"value": 0.1 + 0.2 + 0.3, "low": None, "n": 3}], "b": {"N=2": 1 - 0.9999024}, "c": 0.1 + 0.2 - 0.3}
    two = {"a": [{"value": 0.3 + 0.2 + 0.1, "low": None, "n": 3}], "b": {"N=2": 0.0000976}, "c": 0.3 - 0.1 - 0.2}
    assert one != two and rounded(one) == rounded(two)
    assert json.dumps(rounded(two)) == '{"a": [{"value": 0.6, "low": null, "n": 3}], "b": {"N=2": 9.76e-05}, "c": 0.0}'
    assert rounded([2 / 3, -12345678.87654321, 10**15 + 1, True, "1.0", (0.5,), math.nan, -math.inf]) == [
        *(0.6666666667, -12345678.88, 10**15 + 1, True, "1.0", [0.5], None, None)
    ]


def test_numbers_of_numpy_are_written_as_json_has_them():
    numbers = {"n": np.int64(3), "low": np.float64("nan"), "value": np.float32(0.5), np.int64(2): [np.bool_(True)]}
    assert json.dumps(rounded(numbers)) == '{"n": 3, "low": null, "value": 0.5, "2": [true]}'
