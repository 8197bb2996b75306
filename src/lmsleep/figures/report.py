"""Stage `report`: the report of a scale, one self-contained page with every figure, the paper's numbers beside ours and
a verdict.

python -m lmsleep.figures.report --scale mini --results results/mini --out results/mini.html

The same results give the same bytes.
"""

import base64
from collections.abc import Set
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lmsleep.figures import style
from lmsleep.figures.results import Result, load, paper_values
from lmsleep.figures.tables import (
    Table,
    accuracy_table,
    controls_table,
    difference,
    paper_notes,
    paper_table,
    plain_table,
    verdicts_table,
)
from lmsleep.figures.words import readable

WIDE = 2.2  # width over height from which a picture takes the whole width of the page
LEGIBLE = 72  # pixels on the screen for an inch of the picture: 10 point text is 10 pixels high
# The numbers with tables of their own.
SHOWN = ("test_exact", "difference", "overall", "controls", "text", "verdicts")


def main(scale: str, results: Path, out: Path, paper: Path = Path("docs/paper_values.csv")) -> None:
    """Writes the page.

    Args:
        scale: smoke, mini, gpu or paper.
        results: folder with <figure>.png and <figure>.json.
        out: the HTML file.
        paper: what the paper prints.
    """
    more_seeds = {table.stem for table in results.parent.glob("seeds/*.csv")} if scale == "mini" else set()
    text = page(scale, load(results, scale), paper_values(paper), more_seeds)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def page(scale: str, results: list[Result], paper: pd.DataFrame, more_seeds: Set[str] = frozenset()) -> str:
    """The report of a scale; `paper` as `paper_values` reads it, `more_seeds` figures with more seeds elsewhere."""
    folder = Path(__file__).parent
    loader = FileSystemLoader(folder)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    figures = [view(scale, result, paper[paper.figure == result.caption.name]) for result in results]
    css, drawings = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "mechanism.svg"))
    return environment.get_template("report.html.j2").render(
        scale=scale, figures=figures, css=css, drawings=drawings, more_seeds=more_seeds
    )


def view(scale: str, result: Result, paper: pd.DataFrame) -> dict[str, Any]:
    """What the template shows of a figure."""
    return {
        "result": result,
        "caption": result.caption,
        "picture": picture(result) if result.png else None,
        "paper": None if paper.empty else paper_table(result.caption, paper),
        "notes": paper_notes(result.caption, paper),
        "tables": tables(scale, result),
        "overall": "; ".join(f"N = {r['n_passes']}: {difference(r)}" for r in result.numbers.get("overall", [])),
        "folded": folded(scale, result),
        "seeds": ", ".join(map(str, result.seeds)) or "–",
        "tokens": tokens(result),
        "recorded": recorded(result),
    }


def picture(result: Result) -> dict[str, Any]:
    """The picture as base64, and how to show it; size in pixels from the header of the file."""
    assert result.png is not None
    width, height = (int.from_bytes(result.png[i : i + 4], "big") for i in (16, 20))
    least = round(width / style.RC["savefig.dpi"] * LEGIBLE)
    shape = {"width": width, "height": height, "least": least, "wide": width > WIDE * height}
    return shape | {"data": base64.b64encode(result.png).decode(), "alt": alternative(result)}


def alternative(result: Result) -> str:
    """What the picture draws, and in words what it ends in."""
    ends = []
    for record in result.numbers.get("test_exact", []):
        place = [result.caption.at(record["slice"])] if "slice" in record else []
        place += [f"N = {record['n_passes']}"] if "n_passes" in record else []
        ends.append(f"{', '.join(place)}: {100 * record['value']:.0f} %")
    return result.caption.shows + (f" Test accuracy at the end: {'; '.join(ends)}." if ends else "")


def tables(scale: str, result: Result) -> list[Table]:
    """Our numbers: accuracy, controls and verdicts in full."""
    found, numbers = [], result.numbers
    if "test_exact" in numbers:
        found.append(accuracy_table(f"Ours at {scale} scale, test rows", result))
    if "controls" in numbers:
        found.append(controls_table(f"Ours at {scale} scale, mean over seeds", numbers["controls"]))
    if "text" in numbers:
        found.append(plain_table(f"Ours at {scale} scale, nats a byte of unseen files from N = 1", numbers["text"]))
    if numbers.get("verdicts"):
        found.append(verdicts_table(f"Ours at {scale} scale, paired by seed", numbers["verdicts"]))
    return found


def folded(scale: str, result: Result) -> list[Table]:
    """The other lists of records among our numbers."""
    return [
        plain_table(f"Ours at {scale} scale: {name.replace('_', ' ')}", records)
        for name, records in result.numbers.items()
        if name not in SHOWN and isinstance(records, list) and records and isinstance(records[0], dict)
    ]


def recorded(result: Result) -> dict[str, str]:
    """Hardware, torch version and short commit of the runs, or that they were not recorded."""
    commits = [value[:10] + "+" * value.endswith("+") for value in result.meta.get("commit", [])]
    lists = {key: result.meta.get(key, []) for key in ("hardware", "torch")} | {"commit": commits}
    return {key: ", ".join(values) or "not recorded" for key, values in lists.items()}


def tokens(result: Result) -> str:
    """3.33M, or from the smallest to the largest where runs differ."""
    ends = dict.fromkeys(result.tokens[:1] + result.tokens[-1:])
    return " to ".join(readable(float(f"{n:.3g}")) for n in ends) or "–"


if __name__ == "__main__":
    from lmsleep.cli import run

    run(main)
