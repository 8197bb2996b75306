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

from lmsleep.atomic import save_csv, save_json
from lmsleep.bench import tables
from lmsleep.figures.plots import style
from lmsleep.figures.plots.ours import ablations, arms, controls, select_ablations, select_controls
from lmsleep.figures.plots.probe import probe
from lmsleep.figures.plots.runtime import fig6, latency
from lmsleep.figures.plots.style import Drawing
from lmsleep.figures.plots.text import natural_text
from lmsleep.figures.settings import grids
from lmsleep.figures.stats import compare_passes, exact_accuracy, jsonable, mean_scores, paired_differences, per_slice
from lmsleep.hub import naming_file, read_object, require, typed


def main(figure: str, scale: str, table: Path, out: Path, data: Path = Path(), at: Sequence[int] | None = None) -> None:
    """Draws a figure.

    Args:
        figure: its name.
        scale: for the labels of axes.
        table: the CSV; for `controls` and `ablations` the folder with the scores of other figures.
        out: path of the files to write, without suffix.
        data: folder with baselines.json, or of such folders.
        at: tokens at which runs without test scores are compared (default: the last validation that all have).
    """
    require(figure in DRAW, f"figure must be one of {', '.join(DRAW)}", figure)
    require(not out.suffix, "out must be a name without suffix", str(out))
    frame = read(table)
    with naming_file(table, "baselines.json", "corpus.json"):
        untested = frame.metric.str.startswith("val_").all()
        drawing, numbers = draw_at(figure, frame, at, data, scale) if untested else DRAW[figure](frame, data, scale)
        selected = SELECT[figure](frame) if figure in SELECT else None
        style.save(drawing, out)
    if selected is not None:
        save_csv(out.with_suffix(".csv"), selected, float_format="%.6g")
    save_json(out.with_suffix(".json"), numbers)


def read(table: Path) -> pd.DataFrame:
    """A table, slices as text; for a folder, the scores of all figures over N and of the arms."""
    if not table.is_dir():
        return tables.read(table)
    names = [name for name, grid in grids().items() if grid.get("n_passes") or grid.get("arms")]
    scores = pd.concat([tables.read(table / f"{name}.csv") for name in names])
    scores = scores.sort_values(["figure", "model", "n_passes", "seed", "metric", "slice"])
    return scores.assign(value=[float(f"{value:.6g}") for value in scores.value])


def draw_at(figure: str, table: pd.DataFrame, at: Sequence[int] | None, data: Path, scale: str) -> Drawing:
    """A figure from validations, with its numbers at each of the tokens `at`."""
    at = at or [last_common_tokens(table)]
    drawings = [DRAW[figure](validations_as_tests(table, tokens), data, scale) for tokens in at]
    numbers: dict[str, list[dict[str, Any]]] = {}
    for tokens, (_, found) in zip(at, drawings, strict=True):
        for key, records in found.items():
            rows = [{"tokens": tokens, **record} for record in records if isinstance(records, list)]
            numbers.setdefault(key.replace("test_", "val_"), []).extend(rows)
    return drawings[0][0], {key: records for key, records in numbers.items() if records}


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
    exact = per_slice(table, "val_exact")
    levels = sorted(exact.slice.unique())
    for t, color in zip(levels, style.shades(len(levels)), strict=True):
        style.curves(ax, exact[exact.slice == t], str(t), color)
        majority = baselines(data / f"t{t}", "majority")[str(t)]
        style.reference(ax, majority, "majority" if t == levels[-1] else "", ":", color=color)
    accuracy_axes(ax, scale, exact)
    style.legend(fig, ax, "Rule 110 steps t, plain hybrid (N = 1)")
    differences = jsonable(paired_differences(per_slice(table, "test_exact"), "slice", levels[0]).to_dict("records"))
    exact = exact_accuracy(table, ["slice"])
    means = {f"t={record['slice']}": record["value"] for record in exact}
    return fig, {"test_exact": exact, "difference": differences, "exact": means}


def fig2b(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Sleep on Rule 110: exact accuracy against tokens, one curve for each N."""
    fig, (ax,) = style.subplots()
    exact = per_slice(table, "val_exact")
    draw_passes(ax, exact)
    for name, dashes, place in (("majority", ":", "bottom"), ("chance", "--", "top")):
        style.reference(ax, next(iter(baselines(data, name).values())), name, dashes, place)
    accuracy_axes(ax, scale, exact)
    style.legend(fig, ax, PASSES)
    return fig, compare_passes(table)


def fig3(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Depo: loss over `:` and answers, loss over answers, and exact answers for each number of hops, one curve for each
    N. Lines: `Depo.baselines`."""
    exact = per_slice(table, "val_exact")
    hops = sorted(exact.slice.unique())
    width = 2.2 * len(hops) + 1.6
    fig, axes = style.subplots(3 * len(hops), columns=len(hops), width=width, height=7.0, share_y="row")
    by_difficulty(axes, table, data, hops, "hop", DEPO)
    fig.supxlabel(tokens_label(scale, exact), fontsize=10)
    style.legend(fig, axes[0], PASSES)
    losses = mean_scores(table, ["test_loss", "test_answer_loss"], ["metric", "slice", "n_passes"])
    names = ("floor", "answer_floor", "names", "neighbours", "undirected")
    parts = [{"slice": int(k), **{name: baselines(data, name)[str(k)] for name in names}} for k in hops]
    return fig, compare_passes(table, by_slice=True) | {"test_loss": losses, "baselines": parts}


def operations(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """GSM-Infinite: exact answers for each number of operations, one curve for each N."""
    exact = per_slice(table, "val_exact")
    ops = sorted(exact.slice.unique())
    fig, axes = style.subplots(len(ops), columns=4, width=2.4 * min(4, len(ops)) + 1, height=3.4 * -(-len(ops) // 4))
    by_difficulty(axes, table, data, ops, "operation", GSM)
    note = "" if scale == "paper" else "; from scratch: only the trend compares with the paper"
    fig.supxlabel(tokens_label(scale, exact) + note, fontsize=9)
    style.legend(fig, axes[0], PASSES)
    return fig, compare_passes(table, by_slice=True)


PASSES = "passes N over a full window"
# metric -> label of its axis, baselines and their labels.
DEPO = {
    "val_loss": ("loss with :\n(nats a token)", {"floor": "names"}),
    "val_answer_loss": ("loss of answers\n(nats a token)", {"answer_floor": "names"}),
    "val_exact": ("answers right", {"neighbours": "both neighbours", "undirected": "all but the\ndirection"}),
}
GSM = {"val_exact": ("answers right", {"majority": "most frequent\nanswer"})}


def by_difficulty(
    axes: list[Axes], table: pd.DataFrame, data: Path, levels: list[int], unit: str, drawn: dict[str, Any]
) -> None:
    """A row of panels for each metric, a panel for each level, a curve for each N."""
    for row, (metric, (label, lines)) in enumerate(drawn.items()):
        curves, panels = per_slice(table, metric), axes[row * len(levels) :]
        for ax, level in zip(panels, levels, strict=False):
            draw_passes(ax, curves[curves.slice == level])
            for name, text in lines.items():
                style.reference(ax, baselines(data, name)[str(level)], text if level == levels[-1] else "", ":")
            if metric == "val_exact":
                style.percent_axis(ax)
            style.token_axis(ax)
            if not row:
                ax.set_title(f"{level} {unit}{'s' if level > 1 else ''}", fontsize=10)
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel(label)


def draw_passes(ax: Axes, frame: pd.DataFrame) -> None:
    """One curve for each N."""
    for n, color in style.colors(sorted(frame.n_passes.unique())).items():
        style.curves(ax, frame[frame.n_passes == n], f"N = {n}", color)


def baselines(data: Path, kind: str) -> dict[str, float]:
    """The baselines of a kind, by slice. Raises ValueError if `data` has no such kind."""
    known = read_object(data / "baselines.json")
    require(kind in known, f"data must hold the baseline {kind!r}", str(data))
    return typed(dict[str, float], known[kind], f"{kind} in {data / 'baselines.json'}")


def tokens_label(scale: str, frame: pd.DataFrame) -> str:
    """The label of the horizontal axis of learning curves."""
    seeds = frame.seed.nunique()
    spread = f"{seeds} seeds: mean, its standard error, each seed" if seeds > 1 else "1 seed"
    return f"training tokens ({scale} scale, {spread})"


def accuracy_axes(ax: Axes, scale: str, frame: pd.DataFrame) -> None:
    """Axes of accuracy against training tokens; up to 50 %, as in the paper's figure 2b, if no run exceeds it."""
    ax.set(xlabel=tokens_label(scale, frame), ylabel="all answers of a row right")
    style.token_axis(ax)
    style.percent_axis(ax, top=0.5 if frame.value.max() < 0.5 else 1.0)


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
# Figures drawn from the tables of others -> the rows that they draw.
SELECT: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {"controls": select_controls, "ablations": select_ablations}


if __name__ == "__main__":
    from lmsleep.cli import run

    run(main)
