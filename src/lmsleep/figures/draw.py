r"""Stage `figure`: draws a figure from its table.

python -m lmsleep.figures.draw --figure fig2b --scale mini --table results/mini/fig2b.csv --data data/mini/fig2b \
    --out results/mini/fig2b

Writes <out>.png, <out>.svg and <out>.json with its numbers; a figure drawn from the scores of others also writes
<out>.csv with the rows that it draws. Runs without test scores are compared by their validations.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmsleep.atomic import save_csv, save_json
from lmsleep.bench import tables
from lmsleep.checks import naming_file, require
from lmsleep.figures.plots import style
from lmsleep.figures.plots.baselines import baselines
from lmsleep.figures.plots.ours import ablations, arms, controls, select_ablations, select_controls
from lmsleep.figures.plots.probe import probe
from lmsleep.figures.plots.runtime import fig6, latency
from lmsleep.figures.plots.style import CURVES, Drawing
from lmsleep.figures.plots.text import natural_text
from lmsleep.figures.settings import grids
from lmsleep.figures.stats import compare_passes, compare_steps, mean_scores, per_slice, rounded
from lmsleep.figures.words import counted

PASSES = "passes N over each full window (N = 1: no sleep)"
# metric -> label of its axis, baselines and their labels.
DEPO = {
    "loss": ("loss of all targets\n(nats a token)", {"floor": "any name"}),
    "answer_loss": ("loss of answers\n(nats a token)", {"answer_floor": "any name"}),
    "exact": ("answers right", {"neighbours": "both neighbours", "undirected": "all but the\ndirection"}),
}
GSM = {"exact": ("answers right", {"majority": "most frequent\nanswer"})}


def main(
    figure: str,
    scale: str,
    table: Path,
    out: Path,
    data: Path = Path(),
    at: Sequence[int] | None = None,
    seeds: Path | None = None,
) -> None:
    """Draws a figure.

    Args:
        figure: its name; one that is not of this package but has a grid is drawn as fig2b, a curve for each N.
        scale: for the labels of axes.
        table: the CSV; for `controls` and `ablations` the folder with the scores of other figures.
        out: path of the files to write, without suffix.
        data: folder with baselines.json, or of such folders.
        at: tokens at which runs without test scores are compared (default: the last validation that all have).
        seeds: the CSV with other seeds of some curves, for lines of their own in the picture, not for the numbers.
    """
    known = figure in DRAW or figure in grids()
    require(known, f"figure must be one of {', '.join(DRAW)}, or have a grid in params.yaml", figure)
    require(not out.suffix, "out must be a name without suffix", str(out))
    curves = drawn_by(figure) in CURVES_OF
    require(seeds is None or curves, "seeds must be left out with a figure without curves", figure)
    frame = read(table)
    more = None if seeds is None else with_seeds(frame, seeds)
    with naming_file(table, "baselines.json", "corpus.json"):
        drawing, numbers = draw(figure, frame, at, data, scale)
        drawing = drawing if more is None else draw(figure, more, at, data, scale)[0]
        selected = SELECT[figure](frame) if figure in SELECT else None
        style.save(drawing, out)
    if selected is not None:
        save_csv(out.with_suffix(".csv"), selected, float_format="%.6g")
    save_json(out.with_suffix(".json"), rounded(numbers))


def read(table: Path) -> pd.DataFrame:
    """A table, slices as text; for a folder, the scores of all figures over N and of the arms."""
    if not table.is_dir():
        return tables.read(table)
    names = [name for name, grid in grids().items() if grid.get("n_passes") or grid.get("arms")]
    scores = pd.concat([tables.read(table / f"{name}.csv") for name in names])
    scores = scores.sort_values(["figure", "model", "n_passes", "seed", "metric", "slice"])
    return scores.assign(value=[float(f"{value:.6g}") for value in scores.value])


def with_seeds(table: pd.DataFrame, more: Path) -> pd.DataFrame:
    """A table with the runs of another, of other seeds. Raises ValueError if it has them already, or if no curve would
    have one seed beside others with more, as then the picture has means, which are not those of the numbers."""
    with naming_file(more):
        joined = pd.concat([table, tables.read(more)], ignore_index=True)
        twice = joined[joined.duplicated([name for name in joined if name != "value"])].seed.unique().tolist()
        require(not twice, "seeds must be others than those of the table", twice)
        least, most = style.seeds_each(joined)
        rule = "seeds must be of some curves and leave others with one, so that each run is a line"
        require(style.unequal(joined), rule, f"{least} to {most} of each")
    return joined


def draw(figure: str, table: pd.DataFrame, at: Sequence[int] | None, data: Path, scale: str) -> Drawing:
    """A figure with its numbers, from test scores or, where there are none, by `draw_at`."""
    untested = table.metric.str.startswith("val_").all()
    return draw_at(figure, table, at, data, scale) if untested else drawn_by(figure)(table, data, scale)


def draw_at(figure: str, table: pd.DataFrame, at: Sequence[int] | None, data: Path, scale: str) -> Drawing:
    """A figure from validations, with its numbers at each of the tokens `at`, the last of them in the picture."""
    at = at or [last_common_tokens(table)]
    drawings = [drawn_by(figure)(validations_as_tests(table, tokens), data, scale) for tokens in at]
    numbers: dict[str, list[dict[str, Any]]] = {}
    for tokens, (_, of_drawing) in zip(at, drawings, strict=True):
        for key, records in of_drawing.items():
            rows = [{"tokens": tokens, **record} for record in records if isinstance(records, list)]
            numbers.setdefault(key.replace("test_", "val_"), []).extend(rows)
    return drawings[-1][0], {key: records for key, records in numbers.items() if records}


def last_common_tokens(table: pd.DataFrame) -> int:
    """The last number of tokens at which every run was validated. Raises ValueError if there is none."""
    runs = per_slice(table, "val_exact").groupby(["model", "n_passes", "seed", "slice"])
    common = set.intersection(*(set(run.tokens) for _, run in runs))
    if not common:
        raise ValueError("runs must have a validation at the same tokens, got none; name some with --at")
    return int(max(common))


def validations_as_tests(table: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """The table with the validations at `tokens` as test scores. Raises ValueError if no run was validated there."""
    tested = table[table.tokens == tokens]
    if tested.empty:
        there = ", ".join(f"{n:,}" for n in sorted(table.tokens.unique())[-5:])
        raise ValueError(f"at must be tokens at which a run was validated (the last are {there}), got {tokens:,}")
    return pd.concat([common_validations(table), tested.assign(metric=tested.metric.str.replace("val_", "test_"))])


def common_validations(table: pd.DataFrame) -> pd.DataFrame:
    """The validations that all seeds of a curve have, since the mean would jump where one ends."""
    curves = ["model", "n_passes", "slice"]
    seeds = table.groupby(curves).seed.transform("nunique")
    return table[table.groupby([*curves, "metric", "tokens"]).seed.transform("nunique") == seeds]


def fig2a(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """The plain hybrid (N = 1) on Rule 110: exact accuracy against tokens, one curve for each number of steps t."""
    fig, (ax,) = style.subplots()
    by_t = per_slice(table, "val_exact", "test_exact")
    looks = style.shades({t: f"t = {t}" for t in sorted(by_t.slice.unique())})
    style.learning(ax, by_t, "slice", looks, apart=style.unequal(by_t))
    for t, look in looks.items():
        majority = baselines(data / f"t{t}", "majority")[str(t)]
        style.reference(ax, majority, "always the\nsame answer" if t == max(looks) else "", ":", color=look["color"])
    accuracy_axes(fig, ax, scale, by_t)
    style.legend(fig, [ax], "Rule 110 without sleep (N = 1), by steps t of the automaton")
    numbers = compare_steps(table)
    return fig, numbers | {"exact": {f"t={record['slice']}": record["value"] for record in numbers["test_exact"]}}


def fig2b(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Sleep on Rule 110, or on a task of one's own: exact accuracy against tokens, a panel for each slice, one curve
    for each N."""
    exact = per_slice(table, "val_exact", "test_exact")
    levels, looks = sorted(exact.slice.unique()), style.looks(sorted(exact.n_passes.unique()))
    n = len(levels)
    fig, axes = style.subplots(n, columns=4, width=max(6.4, 3.2 * min(4, n)), height=3.9 * -(-n // 4))
    for ax, level in zip(axes, levels, strict=True):
        style.learning(ax, exact[exact.slice == level], "n_passes", looks, apart=style.unequal(exact))
        for name, text, dashes, place in (
            ("majority", "always the\nsame answer", ":", "bottom"),
            ("chance", "a random answer", "--", "top"),
        ):
            value = baselines(data, name)[str(level)]
            style.reference(ax, value, text if level == levels[-1] else "", dashes, place)
        accuracy_axes(fig, ax, scale, exact)
        ax.set_title(f"slice {level}" if n > 1 else "", fontsize=10)
    style.legend(fig, axes, f"{style.task(table, table.figure.iloc[0])}: {PASSES}")
    return fig, compare_passes(table, by_slice=n > 1)


def fig3(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Depo: loss over `:` and answers, loss over answers, and exact answers for each number of hops, one curve for each
    N. Lines: `Depo.baselines`."""
    hops = sorted(per_slice(table, "val_exact").slice.unique())
    width = 2.2 * len(hops) + 1.6
    fig, axes = style.subplots(3 * len(hops), columns=len(hops), width=width, height=7.4, share_y="row")
    by_difficulty(axes, table, data, hops, "hops", DEPO)
    exact = per_slice(table, "val_exact")
    style.note(fig, exact, scale, CURVES, apart=style.unequal(exact))
    style.legend(fig, axes, f"Depo, by hops along the cycle: {PASSES}")
    losses = mean_scores(table, ["test_loss", "test_answer_loss"], ["metric", "slice", "n_passes"])
    names = ("floor", "answer_floor", "names", "neighbours", "undirected")
    parts = [{"slice": int(k), **{name: baselines(data, name)[str(k)] for name in names}} for k in hops]
    return fig, compare_passes(table, by_slice=True) | {"test_loss": losses, "baselines": parts}


def operations(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """GSM-Infinite: exact answers for each number of operations, one curve for each N."""
    exact = per_slice(table, "val_exact")
    ops = sorted(exact.slice.unique())
    fig, axes = style.subplots(len(ops), columns=4, width=2.4 * min(4, len(ops)) + 1, height=3.2 * -(-len(ops) // 4))
    by_difficulty(axes, table, data, ops, "operations", GSM)
    more = "" if scale == "paper" else " Small models: only the trend compares with the paper."
    style.note(fig, exact, scale, CURVES, more, style.unequal(exact))
    about = style.task(table, table.figure.iloc[0]).replace("\n", " ")
    style.legend(fig, axes, f"{about}: {PASSES}")
    return fig, compare_passes(table, by_slice=True)


def by_difficulty(
    axes: list[Axes], table: pd.DataFrame, data: Path, levels: list[int], unit: str, drawn: dict[str, Any]
) -> None:
    """A row of panels for each metric, a panel for each level, a curve for each N."""
    looks = style.looks(sorted(table.n_passes.unique()))
    for row, (metric, (label, lines)) in enumerate(drawn.items()):
        scores, panels = per_slice(table, f"val_{metric}", f"test_{metric}"), axes[row * len(levels) :]
        for ax, level in zip(panels, levels, strict=False):
            style.learning(ax, scores[scores.slice == level], "n_passes", looks, metric, style.unequal(scores))
            for name, text in lines.items():
                style.reference(ax, baselines(data, name)[str(level)], text if level == levels[-1] else "", ":")
            if metric == "exact":
                style.percent_axis(ax)
            style.token_axis(ax, ticks=4)
            if not row:
                ax.set_title(counted(level, unit), fontsize=10)
            place = ax.get_subplotspec()
            if place is not None and place.is_last_row():
                ax.set_xlabel("training tokens")
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel(label)


def accuracy_axes(fig: Figure, ax: Axes, scale: str, frame: pd.DataFrame) -> None:
    """Axes of accuracy against training tokens; up to 50 %, as in the paper's figure 2b, if no run exceeds it."""
    ax.set(xlabel="training tokens", ylabel="rows with all answers right")
    style.token_axis(ax)
    style.percent_axis(ax, top=0.5 if frame.value.max() < 0.5 else 1.0)
    style.note(fig, frame[frame.metric.str.startswith("val_")], scale, CURVES, apart=style.unequal(frame))


DRAW: dict[str, Callable[[pd.DataFrame, Path, str], Drawing]] = {
    "fig2a": fig2a,
    "fig2b": fig2b,
    "fig3": fig3,
    "fig4a": operations,
    "fig4b": operations,
    "fig5": operations,
    "fig6": fig6,
    "latency": latency,
    "text": natural_text,
    "arms": arms,
    "arms_depo": arms,
    "probe": probe,
    "controls": controls,
    "ablations": ablations,
}
CURVES_OF = (fig2a, fig2b, fig3, operations)  # that draw learning curves, a line for each N or t
# Figures drawn from the tables of others -> the rows that they draw.
SELECT: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {"controls": select_controls, "ablations": select_ablations}


def drawn_by(figure: str) -> Callable[[pd.DataFrame, Path, str], Drawing]:
    """What draws a figure; that of a task of one's own is drawn as fig2b."""
    return DRAW.get(figure, fig2b)


if __name__ == "__main__":
    from lmsleep.cli import run

    run(main)
