"""Rows of the tables: the paper's numbers, and ours with their intervals."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pandas as pd

from lmsleep.pipeline.report.captions import Caption
from lmsleep.pipeline.report.results import Result, difference
from lmsleep.pipeline.style import readable

Rows = tuple[Sequence[str], list[list[str]]]
QUALIFIERS = ("about", ">")


def paper_rows(caption: Caption, paper: pd.DataFrame) -> Rows:
    """A row for each metric and N, a column for each slice; values of which N is not known share a cell."""
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
    return ["passes", *map(caption.at, levels)], rows


def printed(row: Any) -> str:
    """A value with as many digits as the paper gives it: about 10 %, > 30 %, 21.0 %."""
    qualifier = next((f"{word} " for word in QUALIFIERS if row.note.startswith(word)), "")
    return f"{qualifier}{Decimal(row.value).scaleb(2)} %"


def paper_notes(caption: Caption, paper: pd.DataFrame) -> list[str]:
    """What the notes add to the values, each note once with the places that it is for."""
    places: dict[str, list[str]] = {}
    for row, known in zip(paper.to_dict("records"), paper.n_passes.notna(), strict=True):
        qualifier = next((word for word in QUALIFIERS if row["note"].startswith(word)), "")
        passes = f"N = {row['n_passes']}, " if known else ""
        if note := row["note"].removeprefix(qualifier).lstrip("; "):
            places.setdefault(note, []).append(f"{passes}{caption.at(row['slice'])}")
    return [f"{'; '.join(dict.fromkeys(where))}: {note}." for note, where in places.items()]


def our_rows(result: Result) -> Rows:
    """Test accuracy for each slice and N with its intervals, and the paired difference from the smallest N (or t)."""
    numbers, compares = result.numbers, result.caption.compares
    keys = [key for key in ("slice", "n_passes") if key in numbers["test_exact"][0]]
    names = {"slice": result.caption.level, "n_passes": "N"}
    apart = {tuple(r[key] for key in keys): difference(r) for r in numbers.get("difference", [])}
    base = next((f" from {names[compares]} = {r['base']}" for r in numbers.get("difference", []) if compares), "")
    header = [
        *(names[key] for key in keys),
        "right",
        "over seeds (logit t)",
        "over one seed's rows (Wilson)",
        "seeds",
        "answers",
    ]
    rows = []
    for record in sorted(numbers["test_exact"], key=lambda r: [r[key] for key in keys]):
        place = tuple(record[key] for key in keys)
        rows.append(
            [
                *map(str, place),
                percent(record["value"]),
                interval(record["low"], record["high"]),
                interval(record.get("wilson_low"), record.get("wilson_high")),
                str(record["n"]),
                readable(record["answers"]) if "answers" in record else "",
                apart.get(place, ""),
            ]
        )
    return [*header, f"points{base}"], rows


def control_rows(records: Sequence[dict[str, Any]]) -> Rows:
    """Accuracy as trained and with S cut, for each figure and N."""
    wide = pd.DataFrame(records).pivot(index=["figure", "n_passes"], columns="metric", values="value").reset_index()
    rows = [
        [row["figure"], str(row["n_passes"]), percent(row["test_exact"]), percent(row["cut_exact"])]
        for row in wide.to_dict("records")
    ]
    return ["figure", "N", "as trained", "S cut"], rows


def plain_rows(records: Sequence[dict[str, Any]]) -> Rows:
    """Records as they are, a column for each key."""
    header = list(dict.fromkeys(key for record in records for key in record))
    rows = [[plain(record.get(key)) for key in header] for record in records]
    return [{"n_passes": "N"}.get(key, key.replace("_", " ")) for key in header], rows


def plain(value: Any) -> str:
    """Any value, numbers with four digits; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def percent(share: float) -> str:
    """0.123 -> 12.3 %."""
    return f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """Ends in percent; a dash where there is no interval."""
    if low is None or high is None:
        return "–"
    return f"{100 * low:.1f} to {100 * high:.1f} %"
