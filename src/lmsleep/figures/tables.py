"""The tables of the report: the paper's numbers, and ours with intervals."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import pandas as pd

from lmsleep.figures.results import Caption, Result
from lmsleep.figures.words import interval, percent, points, readable

QUALIFIERS = ("about", ">")


class Table(NamedTuple):
    """A table of texts."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def paper_table(caption: Caption, paper: pd.DataFrame) -> Table:
    """A row for each metric and N, a column for each slice; values of unknown N share a cell."""
    levels = sorted(paper["slice"].unique())
    rows = []
    for i, metric in enumerate(paper.metric.unique()):
        part = paper[paper.metric == metric]
        groups = [(f"N = {n}", part[part.n_passes == n]) for n in sorted(part.n_passes.dropna().unique())]
        groups.append(("N not known", part[part.n_passes.isna()]))
        for name, of_n in groups:
            cells = [" · ".join(map(printed, of_n[of_n.slice == level].itertuples())) for level in levels]
            if any(cells):
                rows.append([f"{name}: {metric}" if i else name, *cells])
    title = f"Printed in the paper: {paper.metric.iloc[0]}, {', '.join(paper.model.unique())}"
    return Table(title, ["passes", *map(caption.at, levels)], rows)


def printed(row: Any) -> str:
    """A value with the digits of the paper: about 10 %, > 30 %, 21.0 %."""
    qualifier = next((f"{word} " for word in QUALIFIERS if row.note.startswith(word)), "")
    return f"{qualifier}{Decimal(row.value).scaleb(2)} %"


def paper_notes(caption: Caption, paper: pd.DataFrame) -> list[str]:
    """The notes on the paper's values, each once with all its places."""
    places: dict[str, list[str]] = {}
    for row, known in zip(paper.to_dict("records"), paper.n_passes.notna(), strict=True):
        qualifier = next((word for word in QUALIFIERS if row["note"].startswith(word)), "")
        passes = f"N = {row['n_passes']}, " if known else ""
        if note := row["note"].removeprefix(qualifier).lstrip("; "):
            places.setdefault(note, []).append(f"{passes}{caption.at(row['slice'])}")
    return [f"{'; '.join(dict.fromkeys(where))}: {note}." for note, where in places.items()]


def accuracy_table(title: str, result: Result) -> Table:
    """Test accuracy for each slice and N with intervals, and the paired difference from the smallest N (or t)."""
    numbers, compares = result.numbers, result.caption.compares
    keys = [key for key in ("slice", "n_passes") if key in numbers["test_exact"][0]]
    names = {"slice": result.caption.level, "n_passes": "N"}
    apart = {tuple(r[key] for key in keys): difference(r) for r in numbers.get("difference", [])}
    base = next((f" from {names[compares]} = {r['base']}" for r in numbers.get("difference", []) if compares), "")
    intervals = ["95 % interval over seeds", "over one seed's rows (Wilson)"]
    header = [*(names[key] for key in keys), "right", *intervals, "seeds", "answers", f"points{base}"]
    rows = []
    for record in sorted(numbers["test_exact"], key=lambda r: [r[key] for key in keys]):
        place = tuple(record[key] for key in keys)
        ends = [interval(record.get(f"{kind}low"), record.get(f"{kind}high")) for kind in ("", "wilson_")]
        ends[0] = ", ".join(map(percent, record["scores"])) if "scores" in record else ends[0]
        answers = readable(record["answers"]) if "answers" in record else ""
        counts = [str(record["n"]), answers, apart.get(place, "")]
        rows.append([*map(str, place), percent(record["value"]), *ends, *counts])
    kept = [i for i, name in enumerate(header) if name not in intervals or any(row[i] != "–" for row in rows)]
    return Table(title, [header[i] for i in kept], [[row[i] for i in kept] for row in rows])


def difference(record: dict[str, Any]) -> str:
    """A difference with its interval, in percentage points."""
    return points(record["value"], record["low"], record["high"])


def controls_table(title: str, records: Sequence[dict[str, Any]]) -> Table:
    """Accuracy as trained and with S cut, for each figure and N."""
    wide = pd.DataFrame(records).pivot(index=["figure", "n_passes"], columns="metric", values="value")
    shares = zip(wide.index, wide.test_exact, wide.cut_exact, strict=True)
    rows = [[figure, str(n), percent(tested), percent(cut)] for (figure, n), tested, cut in shares]
    return Table(title, ["figure", "N", "as trained", "S cut"], rows)


def verdicts_table(title: str, records: Sequence[dict[str, Any]]) -> Table:
    """The comparison of each record, its difference with interval, and its verdict; of an arm its title, what it is
    compared with and its accuracy."""
    arms = "exact" in records[0]
    names = [key for key in records[0] if key not in ("value", "low", "high", "n", "verdict", "exact")]
    names = ["title", "against"] if arms else names
    rows = []
    for r in records:
        right = [percent(r["exact"])] if arms else []
        said = [format_value(r[name]) for name in names]
        rows.append([*said, *right, difference(r), str(r["n"]), r["verdict"]])
    header = [{"n_passes": "N", "title": "arm"}.get(name, name) for name in names]
    return Table(title, [*header, *(["right"] if arms else []), "points", "seeds", "verdict"], rows)


def records_table(title: str, records: Sequence[dict[str, Any]]) -> Table:
    """All records, a column for each key."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    header = [{"n_passes": "N"}.get(key, key.replace("_", " ")) for key in keys]
    return Table(title, header, [[format_value(record.get(key)) for key in keys] for record in records])


def format_value(value: Any) -> str:
    """A value as text, floats with four digits; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
