"""Figures drawn from the tables of others: the rows they keep and the means they draw, worked out by hand."""

import itertools
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from lmsleep.cli import run
from lmsleep.figures.data import main as make_data
from lmsleep.figures.draw import accuracy_axes, draw_passes, fig3, main
from lmsleep.figures.plots import style
from lmsleep.figures.plots.ours import arms
from lmsleep.figures.table import COLUMNS

SCORES = {  # (figure, N, seed): accuracy as trained, with S cut, and under the other of N = 1 and 2
    ("fig2b", 1, 0): (0.5, 0.25, 0.375),
    ("fig2b", 1, 1): (0.75, 0.25, 0.625),
    ("fig2b", 2, 0): (1.0, 0.125, 0.5),
    ("fig3", 1, 0): (0.875, 0.0625, 0.75),
}


def rows_of(figure, n_passes, seed, scores):
    """The rows that a figure keeps, and such as it must not: of a slice, of a validation, of another metric."""
    metrics = ("test_exact", "cut_exact", f"test_n{3 - n_passes}_exact")
    kept = [("all", metric, value) for metric, value in zip(metrics, scores, strict=True)]
    others = [("5", metric, 0.0) for metric in metrics]
    others += [("all", metric, 0.0) for metric in ("val_exact", "test_count", "cut_loss", "test_n3_loss")]
    return [(figure, "AG", n_passes, seed, level, 1000, metric, value) for level, metric, value in (*kept, *others)]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """draw(figure): its table and its numbers, from the scores of figures 2b and 3. Beside them lie those of a figure
    that is not over N, and of one that the scale leaves out."""
    monkeypatch.chdir(tmp_path)
    grids = "fig2a: {steps: [1], seeds: [0]}, fig2b: {n_passes: [1, 2]}, fig3: {n_passes: [1]}, fig5: {n_passes: []}"
    Path("params.yaml").write_text(f"grids: {{{grids}}}")
    Path("scores").mkdir()
    for figure, of in (("fig2b", "fig2b"), ("fig3", "fig3"), ("fig2a", "fig2b"), ("fig5", "fig2b")):
        rows = [row for place, scores in SCORES.items() if place[0] == of for row in rows_of(*place, scores)]
        pd.DataFrame(rows, columns=COLUMNS).assign(figure=figure).to_csv(f"scores/{figure}.csv", index=False)

    def draw(figure):
        out = tmp_path / "out" / figure
        out.parent.mkdir()
        run(main, ["--figure", figure, "--scale", "mini", "--table", "scores", "--out", str(out)])
        assert {path.name for path in out.parent.iterdir()} == {f"{figure}.{s}" for s in ("csv", "json", "png", "svg")}
        return pd.read_csv(out.with_suffix(".csv")), json.loads(out.with_suffix(".json").read_text())

    return draw


def test_controls_keep_each_run_as_trained_and_cut(draw):
    table, numbers = draw("controls")
    assert list(table.columns) == COLUMNS
    assert table.drop(columns=["model", "slice", "tokens"]).values.tolist() == [
        *(["fig2b", 1, 0, "cut_exact", 0.25], ["fig2b", 1, 0, "test_exact", 0.5]),
        *(["fig2b", 1, 1, "cut_exact", 0.25], ["fig2b", 1, 1, "test_exact", 0.75]),
        *(["fig2b", 2, 0, "cut_exact", 0.125], ["fig2b", 2, 0, "test_exact", 1.0]),
        *(["fig3", 1, 0, "cut_exact", 0.0625], ["fig3", 1, 0, "test_exact", 0.875]),
    ]
    assert (set(table.model), set(table.slice), set(table.tokens)) == ({"AG"}, {"all"}, {1000})
    assert [(r["figure"], r["n_passes"], r["metric"], r["value"]) for r in numbers["controls"]] == [
        *(("fig2b", 1, "test_exact", 0.625), ("fig2b", 2, "test_exact", 1.0)),  # 0.625: two seeds
        *(("fig2b", 1, "cut_exact", 0.25), ("fig2b", 2, "cut_exact", 0.125)),
        *(("fig3", 1, "test_exact", 0.875), ("fig3", 1, "cut_exact", 0.0625)),
    ]


def test_ablations_keep_each_run_under_its_own_and_other_passes(draw):
    table, numbers = draw("ablations")
    assert list(table.columns) == [*COLUMNS, "at_test"]
    assert table[["figure", "n_passes", "seed", "metric", "value", "at_test"]].values.tolist() == [
        *(["fig2b", 1, 0, "test_exact", 0.5, 1], ["fig2b", 1, 0, "test_n2_exact", 0.375, 2]),
        *(["fig2b", 1, 1, "test_exact", 0.75, 1], ["fig2b", 1, 1, "test_n2_exact", 0.625, 2]),
        *(["fig2b", 2, 0, "test_exact", 1.0, 2], ["fig2b", 2, 0, "test_n1_exact", 0.5, 1]),
        *(["fig3", 1, 0, "test_exact", 0.875, 1], ["fig3", 1, 0, "test_n2_exact", 0.75, 2]),
    ]
    assert [(r["figure"], r["n_passes"], r["at_test"], r["value"]) for r in numbers["passes_at_test"]] == [
        *(("fig2b", 1, 1, 0.625), ("fig2b", 1, 2, 0.5), ("fig2b", 2, 1, 0.5), ("fig2b", 2, 2, 1.0)),
        *(("fig3", 1, 1, 0.875), ("fig3", 1, 2, 0.75)),
    ]


def test_an_n_has_its_colour_whatever_is_drawn_beside_it():
    def drawn(*passes):
        fig, (ax,) = style.subplots()
        draw_passes(ax, pd.DataFrame({"n_passes": passes, "seed": 0, "tokens": 10, "value": 0.5}))
        style.plt.close(fig)
        return {line.get_label(): line.get_color() for line in ax.lines}

    every = drawn(1, 2, 3, 4, 5, 6, 7, 8, 12)
    assert len(set(every.values())) == 9
    assert drawn(1, 4, 8).items() <= every.items() and drawn(4).items() <= every.items()


@pytest.mark.parametrize(("highest", "top"), [(0.22, 0.5), (0.49, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_accuracy_goes_up_to_one_half_where_no_run_passes_it(highest, top):
    _, (ax,) = style.subplots()
    accuracy_axes(ax, "paper", pd.DataFrame({"seed": [0, 0], "value": [0.1, highest]}))
    assert ax.get_ylim() == (0, top)


def test_figure_3_shows_both_losses_and_what_is_known_without_following_the_cycle(tmp_path):
    """Three rows of panels; the lines of the baselines in them; the test losses of both kinds in the numbers."""
    config = "data: {task: {class_path: lmsleep.tasks.Depo}, batch_size: 1, eval_rows: 5}"
    (tmp_path / "task.yaml").write_text(config)
    make_data(tmp_path / "task.yaml", tmp_path)
    scores = {"loss": 1.5, "answer_loss": 3.0, "exact": 0.25, "count": 40.0}
    table = pd.DataFrame(
        [
            ("fig3", "AG", n, 0, k, tokens, f"{split}_{name}", value / n)
            for n, k, tokens, (name, value) in itertools.product((1, 4), ["1", "2", "all"], (10, 20), scores.items())
            for split in ("val", "test")
            if split == "val" or tokens == 20
        ],
        columns=COLUMNS,
    )
    fig, numbers = fig3(table, tmp_path, "mini")
    assert [ax.get_title() for ax in fig.axes[:2]] == ["1 hop", "2 hops"] and len(fig.axes) == 6
    lines = [sorted(line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":") for ax in fig.axes[1::2]]
    assert lines == [[math.log(75) / 2], [math.log(75)], [1 / 72, 0.5]]
    drawn = [sorted(line.get_ydata()[-1] for line in ax.lines if line.get_linestyle() == "-") for ax in fig.axes[1::2]]
    assert drawn == [[0.375, 1.5], [0.75, 3.0], [0.0625, 0.25]]
    found = {(r["metric"], r["slice"], r["n_passes"]): r["value"] for r in numbers["test_loss"]}
    assert len(found) == 8 and found["test_loss", 2, 4] == 0.375 and found["test_answer_loss", 1, 1] == 3.0
    assert [(r["slice"], r["neighbours"], r["undirected"]) for r in numbers["baselines"]] == [
        (1, 1, 0.5),
        (2, 1 / 72, 0.5),
    ]


ROOT = Path(__file__).parents[2]
ARMS = {  # (arm, N, seed): accuracy as trained, with S cut, with one pass at test, until S settles, and passes it took
    ("n4", 4, 0): (0.9, 0.1, 0.3, 0.8, 3.5),
    ("n4", 4, 1): (0.7, 0.1, 0.5, 0.6, 2.5),
    ("n1", 1, 0): (0.4, 0.1, None, None, None),
    ("n1", 1, 1): (0.3, 0.1, None, None, None),
    ("reset", 4, 0): (0.6, 0.1, 0.2, 0.1, 2.0),
    ("reset", 4, 1): (0.6, 0.1, 0.2, 0.1, 2.0),
}


@pytest.fixture
def with_arms(draw, tmp_path):
    """Like `draw`, with arms beside the figures."""
    metrics = ("test_exact", "cut_exact", "test_n1_exact", "settle_0.1_exact", "settle_0.1_passes")
    rows = [
        ("arms", arm, n, seed, "all", 1000, metric, value)
        for (arm, n, seed), values in ARMS.items()
        for metric, value in zip(metrics, values, strict=True)
        if value is not None
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_csv("scores/arms.csv", index=False)
    Path("params.yaml").write_text(
        Path("params.yaml").read_text()[:-1] + ", arms: {arms: [n4, n1, reset], seeds: [0, 1]}}"
    )
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return draw


def test_controls_keep_arms_beside_figures_and_say_what_each_does(with_arms):
    table, numbers = with_arms("controls")
    assert table[table.figure == "arms"][["model", "seed", "metric", "value"]].values.tolist() == [
        [arm, seed, metric, ARMS[arm, n, seed][metric == "cut_exact"]]
        for arm, n in (("n1", 1), ("n4", 4), ("reset", 4))
        for seed in (0, 1)
        for metric in ("cut_exact", "test_exact")
    ]
    assert {record["figure"] for record in numbers["controls"]} == {"fig2b", "fig3"}
    (record,) = numbers["verdicts"]
    assert (record["arm"], record["against"], record["n"], record["verdict"]) == (
        *("n1", "n4", 2),
        "no difference seen at this budget",  # -0.5 and -0.4: the interval of two seeds is wide
    )
    assert record["value"] == pytest.approx(-0.45)


def test_ablations_keep_arms_and_weigh_passes_against_accuracy(with_arms):
    table, numbers = with_arms("ablations")
    assert {*table[table.figure == "arms"].metric} == {"test_exact", "test_n1_exact"}
    assert [record["arm"] for record in numbers["verdicts"]] == ["reset"]
    found = {(r["arm"], r["threshold"], r["passes"]): r["exact"] for r in numbers["arms_at_test"]}
    wanted = {("n4", None, 4): 0.8, ("n4", None, 1): 0.4, ("n4", "0.1", 3): 0.7, ("n1", None, 1): 0.35}
    assert found == pytest.approx(wanted)
    assert {record["figure"] for record in numbers["passes_at_test"]} == {"fig2b", "fig3"}


def test_arms_have_a_line_each_in_the_panel_of_their_group_and_n4_in_both(monkeypatch):
    monkeypatch.chdir(ROOT)
    table = pd.DataFrame(
        [
            ("arms", arm, 4, seed, "12", tokens, "val_exact", tokens / 100 + seed / 10)
            for arm in ("n4", "n1", "reset")
            for seed in (0, 1)
            for tokens in (10, 20)
        ],
        columns=COLUMNS,
    )
    ends = [("arms", arm, 4, seed, "all", 20, "test_exact", seed / 4) for arm in ("n4", "reset") for seed in (0, 1)]
    fig, numbers = arms(pd.concat([table, pd.DataFrame(ends, columns=COLUMNS)]), Path(), "gpu")
    drawn = [{line.get_label(): line.get_ydata().tolist() for line in ax.lines} for ax in fig.axes]
    for lines, own in zip(drawn, ("no sleep, N = 1", "S reset"), strict=True):
        assert lines == {title: pytest.approx([0.15, 0.25]) for title in ("sleep, N = 4", own)}
    assert numbers == {"exact": {"n4": 0.125, "reset": 0.125}}


def test_a_group_without_arms_has_no_panel(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = [("arms_depo", arm, 1, 0, "8", 10, "val_exact", 0.5) for arm in ("n4", "n1")]
    fig, _ = arms(pd.DataFrame(rows, columns=COLUMNS), Path(), "gpu")
    assert [ax.get_title() for ax in fig.axes] == ["controls"]
