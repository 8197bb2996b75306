"""Stage `report`: all figures at all scales on one self-contained page, with verdicts and the paper's numbers.

python -m lmsleep.figures.report --scales [mini,gpu,paper] --results results --out results/mini.html

The same results give the same bytes.
"""

import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lmsleep.atomic import save_text
from lmsleep.checks import naming_file, require
from lmsleep.figures import tables
from lmsleep.figures.results import CAPTIONS, Caption, Result, load, paper_values
from lmsleep.figures.stats import Estimate
from lmsleep.figures.words import percent, points, readable, short_commit

WIDE = 700  # points of width from which a picture takes the whole width of the page
# Numbers that have their own tables.
SHOWN = ("test_exact", "difference", "overall", "controls", "text", "verdicts")
# Colours of pictures -> colours of the theme: text, page, grid, notes, N = 1 and 2, the first t of figure 2a.
THEME = {"000000": "currentColor", "1b1f27": "currentColor", "ffffff": "var(--card)", "e5e9f0": "var(--line)"}
THEME |= {"5b6477": "var(--soft)", "4c566a": "var(--open)", "0072b2": "var(--token)"}
THEME |= {"440154": "var(--weight)", "3e4989": "var(--second)", "433d84": "var(--second)"}


def main(scales: list[str], results: Path, out: Path, paper: Path = Path("docs/paper_values.csv")) -> None:
    """Writes the page.

    Args:
        scales: some of smoke, mini, gpu and paper, in order.
        results: folder with a folder for each scale, with <figure>.svg and <figure>.json.
        out: the HTML file.
        paper: what the paper prints.
    """
    known = dict.fromkeys(scale for caption in CAPTIONS.values() for scale in caption.scales)
    chosen = scales and len(set(scales)) == len(scales) and set(scales) <= set(known)
    require(chosen, f"scales must be one or more of {', '.join(known)}", scales)
    more_seeds = {table.stem for table in results.glob("seeds/*.csv")}
    save_text(out, page({scale: load(results / scale, scale) for scale in scales}, paper_values(paper), more_seeds))


def page(by_scale: dict[str, dict[str, Result]], paper: pd.DataFrame, more_seeds: set[str]) -> str:
    """The page on results by scale and figure; `paper` as of `paper_values`, `more_seeds`: figures in results/seeds."""
    folder = Path(__file__).parent
    strict = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(folder), **strict)
    figures = []
    for name, caption in CAPTIONS.items():
        at = {scale: figure_view(scale, results[name]) for scale, results in by_scale.items() if name in results}
        figures += [{"caption": caption, "at": at} | paper_view(caption, paper[paper.figure == name])] if at else []
    css, drawings = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "mechanism.svg"))
    return environment.get_template("report.html.j2").render(
        scales=list(by_scale), figures=figures, css=css, drawings=drawings, more_seeds=more_seeds
    )


def paper_view(caption: Caption, paper: pd.DataFrame) -> dict[str, Any]:
    """What the template shows of the numbers that the paper prints of a figure: a table by its title, and notes."""
    title = f"Printed in the paper: {', '.join([*paper.metric[:1], *paper.model.unique()])}"
    table = {} if paper.empty else {title: tables.paper_table(caption, paper)}
    return {"paper": table, "notes": tables.paper_notes(caption, paper)}


def figure_view(scale: str, result: Result) -> dict[str, Any]:
    """What the template shows of a figure at a scale. Raises ValueError if its numbers have another structure."""
    with naming_file(f"{result.caption.name}.json at {scale} scale"):
        return {
            "result": result,
            "verdict": result.verdict,
            "there": bool(result.svg or result.numbers),
            "picture": picture(scale, result.caption.name, result.svg, alt_text(result)) if result.svg else None,
            "tables": shown(scale, result),
            "overall": "; ".join(map(difference_text, result.numbers.get("overall", []))),
            "folded": folded(scale, result),
            "seeds": ", ".join(map(str, result.seeds)) or "–",
            "tokens": tokens(result),
            "hours": hours(result.meta["seconds"]) if "seconds" in result.meta else "–",
            "recorded": provenance_of(result),
        }


def difference_text(record: dict[str, Any]) -> str:
    """N = 2: +12.3 (+4.5 to +20.1), with its tokens if the record has them."""
    at = f" at {three_digits(record['tokens'])} tokens" if "tokens" in record else ""
    return f"N = {record['n_passes']}{at}: {points(Estimate.of(record))}"


def picture(scale: str, name: str, svg: str, alt: str) -> dict[str, Any]:
    """An SVG of Matplotlib as a part of the page: with unique ids, and colours of the theme; at `least` pixels of
    width, 10 point text is 10 pixels high."""
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    inside = re.sub(r"^.*?<svg [^>]*>|<metadata>.*?</metadata>|<style.*?</style>|</svg>\s*$", "", svg, flags=re.S)
    inside = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{scale}-{name}-", inside)
    inside = re.sub("#([0-9a-f]{6})", lambda color: THEME.get(color[1], color[0]), inside)
    shape = {"box": f"0 0 {width:g} {height:g}", "least": round(width), "wide": width > WIDE or width > 2 * height}
    return shape | {"inside": inside, "alt": alt}


def alt_text(result: Result) -> str:
    """The alternative text of a picture: what it shows, and its final values."""
    ends = []
    for record in result.numbers.get("test_exact", []):
        place = [result.caption.at(record["slice"])] if "slice" in record else []
        place += [f"N = {record['n_passes']}"] if "n_passes" in record else []
        ends.append(f"{', '.join(place)}: {percent(record['value'], 0)}")
    return result.caption.shows + (f" Test accuracy at the end: {'; '.join(ends)}." if ends else "")


def shown(scale: str, result: Result) -> dict[str, pd.DataFrame]:
    """The tables that are shown in full, by their titles."""
    numbers, of_scale = result.numbers, {}
    if "test_exact" in numbers:
        of_scale["test rows"] = tables.accuracy_table(result.caption, numbers)
    if "controls" in numbers:
        of_scale["mean over seeds"] = tables.controls_table(numbers["controls"])
    if "text" in numbers:
        of_scale["unseen files"] = tables.losses_table(numbers)
    if numbers.get("verdicts"):
        of_scale["paired by seed"] = tables.verdicts_table(numbers["verdicts"])
    return {f"Ours at {scale} scale, {title}": table for title, table in of_scale.items()}


def folded(scale: str, result: Result) -> dict[str, pd.DataFrame]:
    """The tables that are folded, by what they hold: all other lists of records."""
    return {
        f"{name.replace('_', ' ')} at {scale} scale": tables.records_table(records)
        for name, records in result.numbers.items()
        if name not in SHOWN and isinstance(records, list) and records and isinstance(records[0], dict)
    }


def provenance_of(result: Result) -> dict[str, str]:
    """Hardware, torch versions and short commits of the runs."""
    commits = [short_commit(commit, 10) for commit in result.meta.get("commit", [])]
    lists = {key: result.meta.get(key, []) for key in ("hardware", "torch")} | {"commit": commits}
    return {key: ", ".join(values) or "not recorded" for key, values in lists.items()}


def tokens(result: Result) -> str:
    """Training tokens, such as 3.33M, or the range over runs."""
    ends = dict.fromkeys(result.tokens[:1] + result.tokens[-1:])
    return " to ".join(map(three_digits, ends)) or "–"


def hours(seconds: float) -> str:
    """4536 -> 1.26; of less than half a minute, which is none of hundredths, < 0.01."""
    return f"{seconds / 3600:.2f}" if seconds >= 18 else "< 0.01"


def three_digits(n: float) -> str:
    """3331264 -> 3.33M."""
    return readable(float(f"{n:.3g}"))


if __name__ == "__main__":
    from lmsleep.cli import run

    run(main)
