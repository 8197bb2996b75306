"""Figures drawn from the tables of others: the rows they keep and the means they draw, worked out by hand."""

import errno
import io
import itertools
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.pyplot import get_fignums
from PIL import Image

from lmsleep.cli import run
from lmsleep.figures.data import main as make_data
from lmsleep.figures.draw import DRAW, drawn_by, main
from lmsleep.figures.plots import style
from lmsleep.figures.plots.curves import accuracy_axes, fig2a, fig3
from lmsleep.figures.plots.ours import ablations, arms, controls
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


def curves(*runs):
    """Validations of Rule 110: (N, seed, tokens, value)."""
    return pd.DataFrame([("fig2b", "AG", n, seed, "12", t, "val_exact", v) for n, seed, t, v in runs], columns=COLUMNS)


def test_a_figure_of_ones_own_is_called_by_its_name(tmp_path):
    guesses = {name: {"5": 0.1, "12": 0.1} for name in ("majority", "chance")}
    (tmp_path / "baselines.json").write_text(json.dumps(guesses))
    scored = [row for place, scores in SCORES.items() for row in rows_of(*place, scores)]
    table = pd.concat([curves((1, 0, 10, 0.5), (2, 0, 10, 0.5)), pd.DataFrame(scored, columns=COLUMNS)])
    table = table[table.figure == "fig2b"].assign(figure="copy")
    learning, *others = (DRAW[name](table, tmp_path, "mini")[0] for name in ("fig2b", "controls", "ablations"))
    assert learning.legends[0].get_title().get_text().startswith("copy: passes")
    assert [figure.axes[0].get_title() for figure in others] == ["copy", "copy"]
    assert get_fignums() == []  # Matplotlib keeps none of them, of which `--at` draws one for each of its values


def test_numbers_are_written_without_the_digits_in_which_machines_differ(tmp_path):
    guesses = {name: {"12": 0.1} for name in ("majority", "chance")}
    (tmp_path / "baselines.json").write_text(json.dumps(guesses))
    runs = [(n, seed, 10, value) for n in (1, 2) for seed, value in enumerate((0.1, 0.2, 0.3 * n))]
    table = pd.concat([curves(*runs), curves(*runs).assign(metric="test_exact"),
                       curves(*runs).assign(metric="test_exact", slice="all")])  # fmt: skip
    table.to_csv(tmp_path / "in.csv", index=False)
    main("fig2b", "mini", tmp_path / "in.csv", tmp_path / "out", tmp_path)
    digits = re.findall(r"\d\.\d+", (tmp_path / "out.json").read_text())
    assert {"0.2", "0.3", "0.1"} <= {*digits} and max(len(n.replace(".", "").lstrip("0")) for n in digits) == 10


def test_an_n_has_its_colour_and_marker_whatever_is_drawn_beside_it():
    def drawn(*passes):
        _, (ax,) = style.subplots()
        style.learning(ax, curves(*((n, 0, 10, 0.5) for n in passes)), "n_passes", style.looks(passes))
        return {line.get_label(): (line.get_color(), line.get_marker()) for line in ax.lines}

    every = drawn(1, 2, 3, 4, 5, 6, 7, 8, 12)
    assert len(set(every.values())) == 9 and len({marker for _, marker in list(every.values())[:6]}) == 6
    assert drawn(1, 4, 8).items() <= every.items() and drawn(4).items() <= every.items()


def test_a_single_validation_has_its_marker():
    fig, (ax,) = style.subplots()
    style.learning(ax, curves((4, 0, 10, 0.5)), "n_passes", {4: style.looks([4])[4] | {"color": "#ff0000"}})
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    assert (np.asarray(canvas.buffer_rgba())[..., :3] == (255, 0, 0)).all(-1).any()


def test_a_band_is_the_interval_over_three_seeds_and_two_have_none():
    """By hand: 0.4, 0.5 and 0.6 have logit(m) = 0 and 4 t s = 4 * 4.30265 * 0.1 / sqrt(3)."""
    _, (ax,) = style.subplots()
    two = [(2, seed, tokens, 0.2 + seed / 10) for seed in (0, 1) for tokens in (10, 20)]
    three = [(4, seed, tokens, 0.4 + seed / 10) for seed in (0, 1, 2) for tokens in (10, 20)]
    style.learning(ax, curves(*two, *three), "n_passes", style.looks([2, 4]))
    (band,) = ax.collections
    low = 1 / (1 + math.exp(4 * 4.30265 * 0.1 / math.sqrt(3)))
    wanted = {(10, low), (20, low), (10, 1 - low), (20, 1 - low)}
    assert {(x, round(y, 5)) for x, y in band.get_paths()[0].vertices} == {(x, round(y, 5)) for x, y in wanted}


def test_the_test_scores_stand_at_the_end_of_a_curve_that_stops_before(tmp_path):
    """Figure 2a at 40 tokens, its last validation at 30: the mean with its interval, and a dot for each seed."""
    for t in (8, 10):
        (tmp_path / f"t{t}").mkdir()
        (tmp_path / f"t{t}" / "baselines.json").write_text(json.dumps({"majority": {str(t): 0.09}}))
    rows = [
        ("fig2a", "AG", 1, seed, str(t), tokens, metric, 0.1 + seed / 10 + tokens / 100)
        for seed in (0, 1, 2)
        for t in (8, 10)
        for tokens, metric in ((15, "val_exact"), (30, "val_exact"), (40, "test_exact"))
    ]
    fig, _ = fig2a(pd.DataFrame(rows, columns=COLUMNS), tmp_path, "gpu")
    (ax,) = fig.axes
    marks = {tuple(map(float, (bar[0].get_xdata()[0], bar[0].get_ydata()[0]))) for bar in ax.containers}
    assert sorted(y for _, y in marks) == pytest.approx([0.6, 0.6]) and len({x for x, _ in marks}) == 2
    assert all(40 < x < 43 for x, _ in marks)
    dots = [dots.get_offsets()[:, 1].tolist() for dots in ax.collections if len(dots.get_offsets()) == 3]
    assert dots == [pytest.approx([0.5, 0.6, 0.7])] * 2
    assert "3 seeds" in fig.get_supxlabel() and "95 % interval" in fig.get_supxlabel()


def test_a_drawing_made_small_is_the_same_drawing():
    fig, (ax,) = style.subplots()
    style.learning(ax, curves(*((4, seed, t, t / 90 + seed / 7) for seed in (0, 1, 2) for t in (10, 30))), "n_passes",
                   style.looks([4]))  # fmt: skip
    with io.StringIO() as written:
        fig.savefig(written, format="svg")
        svg = written.getvalue()
    short = style.shorten(svg)
    assert len(short) < 0.8 * len(svg)
    before, after = (list(ElementTree.fromstring(text).iter()) for text in (svg, short))
    assert [e.tag for e in before] == [e.tag for e in after]
    for one, other in zip(before, after, strict=True):
        for name in ("d", "x", "y", "transform"):
            numbers = [[float(x) for x in re.findall(r"-?[\d.]+", e.get(name, ""))] for e in (one, other)]
            assert numbers[0] == pytest.approx(numbers[1], abs=0.1)
    ids = {e.get("id") for e in after}
    used = {e.get("{http://www.w3.org/1999/xlink}href") for e in after} - {None}
    assert used and {name[1:] for name in used} <= ids


def test_a_picture_that_cannot_be_written_is_named_and_the_one_before_stays(tmp_path, monkeypatch):
    save = Image.Image.save

    def full(image, file, **options):
        if isinstance(file, io.BytesIO):  # Matplotlib's own
            return save(image, file, **options)
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    fig, _ = style.subplots()
    before = tmp_path / "fig2b.png"
    before.write_bytes(b"before")
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError) as error:
        style.save(fig, tmp_path / "fig2b")
    assert error.value.filename == str(before) and before.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"fig2b.png", "fig2b.svg"}


def test_panels_are_called_after_their_task(monkeypatch):
    monkeypatch.chdir(ROOT)
    scores = [("fig2b", "12", 4), ("fig3", "8", 4), ("arms", "12", 4), ("arms_depo", "8", 4)]
    rows = [
        (figure, model, n, seed, level, 10, metric, 0.5)
        for figure, slice_, n in scores
        for model in (("n4", "n1") if figure.startswith("arms") else ("AG",))
        for seed in (0, 1)
        for level in (slice_, "all")
        for metric in ("test_exact", "cut_exact")
    ]
    fig, _ = controls(pd.DataFrame(rows, columns=COLUMNS), Path(), "gpu")
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == ["Rule 110, t = 12", "Depo", "Rule 110, t = 12, 2 seeds", "Depo, 2 seeds"]


def test_a_task_of_ones_own_has_a_panel_for_each_slice(tmp_path):
    """Slices 1 and 10 of N = 1 and 2, two seeds: curves are means over seeds alone, differences by slice."""
    guesses = {"majority": {"1": 0.25, "10": 0.125}, "chance": {"1": 0.0625, "10": 0.03125}}
    (tmp_path / "baselines.json").write_text(json.dumps(guesses))
    rows = [
        ("copy", "AG", n, seed, level, 10, metric, n / 4 + seed / 8 + (level == "10") / 4)
        for n, seed, level in itertools.product((1, 2), (0, 1), ("1", "10", "all"))
        for metric in ("val_exact", "test_exact")
    ]
    fig, numbers = drawn_by("copy")(pd.DataFrame(rows, columns=COLUMNS), tmp_path, "mini")
    assert [ax.get_title() for ax in fig.axes] == ["slice 1", "slice 10"]
    ends = [[line.get_ydata()[-1] for line in ax.lines if str(line.get_label())[:1] == "N"] for ax in fig.axes]
    assert ends == [[0.3125, 0.5625], [0.5625, 0.8125]]
    lines = [{line.get_ydata()[0] for line in ax.lines if line.get_linestyle() in (":", "--")} for ax in fig.axes]
    assert lines == [{0.25, 0.0625}, {0.125, 0.03125}]
    apart = [(r["slice"], r["n_passes"], r["value"], r["n"]) for r in numbers["difference"]]
    assert apart == [(1, 2, 0.25, 2), (10, 2, 0.25, 2)]


@pytest.mark.parametrize(
    ("counts", "label"),
    [
        ({"count": 512, "rows": 512}, "rows with all answers right"),
        ({"count": 1536, "rows": 512}, "answers right"),
        ({"count": 1536}, "rows with all answers right"),  # of before rows were counted
    ],
)
def test_the_axis_says_whether_rows_or_answers_are_counted(counts, label, tmp_path):
    guesses = {name: {"12": 0.1} for name in ("majority", "chance")}
    (tmp_path / "baselines.json").write_text(json.dumps(guesses))
    runs = curves((1, 0, 10, 0.5), (2, 0, 10, 0.5))
    metrics = {"val_exact": 0.5, "test_exact": 0.5, **{f"test_{name}": value for name, value in counts.items()}}
    table = pd.concat(runs.assign(metric=metric, value=value) for metric, value in metrics.items())
    table = pd.concat([table, table.assign(slice="all")])
    fig, _ = drawn_by("copy")(table, tmp_path, "mini")
    assert [ax.get_ylabel() for ax in fig.axes] == [label]


@pytest.mark.parametrize(("highest", "top"), [(0.22, 0.5), (0.49, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_accuracy_goes_up_to_one_half_where_no_run_passes_it(highest, top):
    fig, (ax,) = style.subplots()
    accuracy_axes(fig, ax, "paper", curves((1, 0, 10, 0.1), (1, 0, 20, highest)))
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
    curves = [[line for line in ax.lines if line.get_label() in ("N = 1", "N = 4")] for ax in fig.axes[1::2]]
    drawn = [sorted(line.get_ydata()[-1] for line in lines) for lines in curves]
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
        "undecided",  # two seeds have no interval
    )
    assert record["value"] == pytest.approx(-0.45)


def test_arms_without_a_question_of_the_ablations_leave_no_empty_panel(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = [
        (figure, model, n, 0, level, 10, "test_exact", 0.5)
        for figure, model, n in (("fig2b", "AG", 1), ("arms", "n4", 4), ("arms", "n1", 1))
        for level in ("12", "all")
    ]
    fig, numbers = ablations(pd.DataFrame(rows, columns=COLUMNS), Path(), "smoke")
    assert [ax.get_title().partition(",")[0] for ax in fig.axes] == ["Rule 110", "Rule 110"] and not fig.subfigs
    assert numbers.keys() == {"passes_at_test", "arms_at_test"}
    assert {record["arm"] for record in numbers["arms_at_test"]} == {"n4", "n1"}


def test_ablations_keep_arms_and_weigh_passes_against_accuracy(with_arms):
    table, numbers = with_arms("ablations")
    assert {*table[table.figure == "arms"].metric} == {"test_exact", "test_n1_exact"}
    assert [record["arm"] for record in numbers["verdicts"]] == ["reset"]
    found = {(r["arm"], r["threshold"], r["passes"]): r["exact"] for r in numbers["arms_at_test"]}
    wanted = {("n4", None, 4): 0.8, ("n4", None, 1): 0.4, ("n4", "0.1", 3): 0.7, ("n1", None, 1): 0.35}
    assert found == pytest.approx(wanted)
    assert {record["figure"] for record in numbers["passes_at_test"]} == {"fig2b", "fig3"}


@pytest.fixture
def guess(tmp_path):
    """A folder with what guessing scores."""
    (tmp_path / "baselines.json").write_text(json.dumps({"majority": {"12": 0.0625}, "names": {"8": 0.03125}}))
    return tmp_path


def test_every_arm_has_a_panel_with_n4_behind_it_and_what_it_is_compared_with(monkeypatch, guess):
    monkeypatch.chdir(ROOT)
    table = pd.DataFrame(
        [
            ("arms", arm, 4, seed, "12", tokens, "val_exact", tokens / 100 + seed / 10 + (arm == "mamba"))
            for arm in ("n4", "n1", "mamba", "mamba_awake", "small")
            for seed in (0, 1)
            for tokens in (10, 20)
        ],
        columns=COLUMNS,
    )
    ends = [("arms", arm, 4, seed, "all", 20, "test_exact", seed / 4) for arm in ("n4", "mamba") for seed in (0, 1)]
    fig, numbers = arms(pd.concat([table, pd.DataFrame(ends, columns=COLUMNS)]), guess, "gpu")
    titles = ["no sleep, N = 1", "Mamba-2", "Mamba-2, N = 1", "d = 192, N = 4, four\ntimes the steps"]
    assert [ax.get_title() for ax in fig.axes] == titles
    drawn = [{line.get_label(): list(line.get_ydata()) for line in ax.lines} for ax in fig.axes]
    low, high, behind = pytest.approx([0.15, 0.25]), pytest.approx([1.15, 1.25]), "sleep, N = 4"
    arm, against, guessing = "the arm of the title", "the same with sleep, N = 4", [0.0625, 0.0625]
    for lines, wanted in zip(drawn, ({arm: low}, {arm: high}, {arm: low, against: high}, {arm: low}), strict=True):
        named = {label: values for label, values in lines.items() if not label.startswith("_")}
        assert named == {behind: low} | wanted and guessing in lines.values()
    assert numbers == {"exact": {"n4": 0.125, "mamba": 0.125}}


def test_arms_on_depo_guess_among_the_names(monkeypatch, guess):
    monkeypatch.chdir(ROOT)
    rows = [("arms_depo", arm, 1, 0, "8", 10, "val_exact", 0.5) for arm in ("n4", "n1")]
    fig, _ = arms(pd.DataFrame(rows, columns=COLUMNS), guess, "gpu")
    assert [ax.get_title() for ax in fig.axes] == ["no sleep, N = 1"]
    assert [0.03125, 0.03125] in [list(line.get_ydata()) for line in fig.axes[0].lines]
