"""The runtime figures show every number of their tables."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lmsleep.figures.plots.runtime import fig6, flatness, latency
from lmsleep.figures.table import COLUMNS


def table(figure, rows):
    frame = pd.DataFrame(rows, columns=["model", "n_passes", "slice", "tokens", "metric", "value"])
    return frame.assign(figure=figure, seed=0)[COLUMNS]


@pytest.fixture
def wake_table():
    rows = []
    for n, windows in itertools.product((1, 4), (1, 10, 100)):
        values = {"latency_p50_ms": 1 + n / 10, "memory_bytes": 5000, "pause_ms": n * 2 + windows / 100}
        rows += [("hybrid", n, windows, windows * 8, metric, value) for metric, value in values.items()]
    for windows in (1, 10):
        values = {"latency_p50_ms": windows / 4, "memory_bytes": windows * 900}
        rows += [("full attention", 1, windows, windows * 8, metric, value) for metric, value in values.items()]
    return table("latency", rows)


def drawn(ax):
    """All (x, y) of the lines."""
    return {(float(x), float(y)) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}


def test_latency_draws_every_measurement(wake_table):
    speed, memory, pause = latency(wake_table, Path(), "mini")[0].axes
    for ax, metric in ((speed, "latency_p50_ms"), (memory, "memory_bytes")):
        of_metric = wake_table[wake_table.metric == metric]
        assert drawn(ax) == set(zip(of_metric.tokens.astype(float), of_metric.value.astype(float), strict=True))
    dots = np.concatenate([dots.get_offsets() for dots in pause.collections if len(dots.get_offsets()) > 1])
    assert sorted(dots[:, 1]) == sorted(wake_table[wake_table.metric == "pause_ms"].value)
    assert all("ms" in ax.get_ylabel() for ax in (speed, pause))


def test_what_is_flat_looks_flat(wake_table):
    wake_table.loc[wake_table.metric == "latency_p50_ms", "value"] = 4.2
    low, high = latency(wake_table, Path(), "mini")[0].axes[0].get_ylim()
    assert high / low > 9.9 and low < 4.2 < high


@pytest.mark.parametrize("longest", [83, 10_000_000])
def test_contexts_have_a_few_labels(wake_table, longest):
    wake_table["tokens"] = np.where(wake_table.tokens > 100, longest, 11)
    (ax, _, _) = latency(wake_table, Path(), "smoke")[0].axes
    ax.figure.draw_without_rendering()
    labels = [label.get_text() for label in (*ax.get_xticklabels(), *ax.get_xticklabels(minor=True))]
    assert [text for text in labels if text and text[0] not in "0123456789"] == []
    low, high = ax.get_xlim()
    assert 2 <= sum(low <= place <= high for place in ax.get_xticks()) <= 8
    assert not any(label.get_text() for label in ax.get_xticklabels(minor=True))


@pytest.mark.parametrize("twin", [(2.4e8, 2.4e8), (2.4e8, 1e12)])
def test_memory_has_a_few_labels(wake_table, twin):
    wake_table.loc[wake_table.metric == "memory_bytes", "value"] = 2.3e8
    wake_table.loc[(wake_table.model == "full attention") & (wake_table.metric == "memory_bytes"), "value"] = twin
    memory = latency(wake_table, Path(), "mini")[0].axes[1]
    low, high = memory.get_ylim()
    assert 2 <= sum(low < place < high for place in memory.get_yticks()) <= 5


def test_flatness_is_the_slope_of_a_known_plane():
    rows = [
        ("hybrid", n, windows, windows * 8, "latency_p50_ms", 2.0 + 0.1 * np.log10(windows) + 0.05 * n + noise)
        for n, windows in itertools.product((1, 2, 3, 4), (1, 10, 100, 1000))
        for noise in (-0.01, 0.01)
    ]
    frame = table("latency", rows)
    flat, mean = flatness(frame), frame.value.mean()
    for name, slope in (("per_tenfold_context", 0.1), ("per_pass", 0.05)):
        assert flat[name]["slope"] == pytest.approx(slope / mean)
        # Textbook: the standard error of a slope is s / sqrt(sum of squares of its column), 32 points, 3 parameters.
        columns = {"per_tenfold_context": np.repeat([0, 1, 2, 3], 8), "per_pass": np.repeat([1, 2, 3, 4], 8)}[name]
        error = np.sqrt(32 * 0.01**2 / 29) / np.sqrt(((columns - columns.mean()) ** 2).sum()) / mean
        assert flat[name]["half_width"] == pytest.approx(error * 2.0452, rel=1e-3)


def test_fig6_draws_every_measurement():
    rows = [
        (model, n, window, 64, "tokens_per_second", 1000.0 / n + window)
        for model, n in (("parallel sliding window", 1), *(("reading by windows", n) for n in (1, 2, 4)))
        for window in (16, 32)
    ]
    left, right = fig6(table("fig6", rows), Path(), "mini")[0].axes
    places = {16: 0.0, 32: 1.0}
    once = {(places[window], 1000.0 + window) for window in places}
    assert drawn(left) == once
    assert drawn(right) == {(places[window], 1000.0 / n + window) for n in (1, 2, 4) for window in places}
    assert [text.get_text() for text in left.get_xticklabels()] == ["16", "32"]
    assert all("tokens/s" in ax.get_ylabel() for ax in (left, right))
