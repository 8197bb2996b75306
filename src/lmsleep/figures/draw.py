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

from lmsleep import tidy
from lmsleep.atomic import save_csv, save_json
from lmsleep.checks import naming_file, require
from lmsleep.figures.plots import style
from lmsleep.figures.plots.curves import fig2a, fig2b, fig3, operations
from lmsleep.figures.plots.ours import ablations, arms, controls, select_ablations, select_controls
from lmsleep.figures.plots.probe import probe
from lmsleep.figures.plots.runtime import fig6, latency
from lmsleep.figures.plots.style import Drawing
from lmsleep.figures.plots.text import natural_text
from lmsleep.figures.settings import grids
from lmsleep.figures.stats import per_slice, rounded


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
    require(at is None or untested(frame), "at must be left out with a table that has test scores", at)
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
    """A table, slices as text; for a folder, the scores of all figures over N and of the arms. Raises ValueError if a
    row is there twice: its seed would count twice."""
    if not table.is_dir():
        frame = tidy.read(table)
        with naming_file(table):  # of all slices together a figure over t has a row for each t
            tidy.check_once(frame[frame.slice != "all"])
        return frame
    names = [name for name, grid in grids().items() if grid.get("n_passes") or grid.get("arms")]
    scores = pd.concat([tidy.read(table / f"{name}.csv") for name in names])
    with naming_file(table):
        tidy.check_once(scores)
    scores = scores.sort_values(["figure", "model", "n_passes", "seed", "metric", "slice"])
    return scores.assign(value=[float(f"{value:.6g}") for value in scores.value])


def with_seeds(table: pd.DataFrame, more: Path) -> pd.DataFrame:
    """A table with the runs of another, of other seeds. Raises ValueError if it has them already, or if no curve would
    have one seed beside others with more, as then the picture has means, which are not those of the numbers."""
    with naming_file(more):
        joined = pd.concat([table, tidy.read(more)], ignore_index=True)
        twice = joined[joined.duplicated([name for name in joined if name != "value"])].seed.unique().tolist()
        require(not twice, "seeds must be others than those of the table", twice)
        least, most = style.seeds_each(joined)
        rule = "seeds must be of some curves and leave others with one, so that each run is a line"
        require(style.unequal(joined), rule, f"{least} to {most} of each")
    return joined


def draw(figure: str, table: pd.DataFrame, at: Sequence[int] | None, data: Path, scale: str) -> Drawing:
    """A figure with its numbers, from test scores or, where there are none, by `draw_at`."""
    return draw_at(figure, table, at, data, scale) if untested(table) else drawn_by(figure)(table, data, scale)


def untested(table: pd.DataFrame) -> bool:
    """Whether a table has validations alone."""
    return bool(table.metric.str.startswith("val_").all())


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
