"""The tables of the report and of the pages in results/, frames of texts: the paper's numbers, and ours with
intervals."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pandas as pd

from lmsleep.figures.results import Caption
from lmsleep.figures.stats import OPERATIONS, STEPS, Estimate
from lmsleep.figures.words import interval, millions, nats, percent, points

QUALIFIERS = ("about", ">")
OVER_SEEDS, OVER_ROWS = "95 % interval over seeds", "over one seed's rows (Wilson)"
OF_TWO = "; of two seeds the scores"  # behind the title of a column of intervals


def paper_table(caption: Caption, paper: pd.DataFrame) -> pd.DataFrame:
    """A row for each metric and N, a column for each slice; values of unknown N share a cell."""
    levels = sorted(paper["slice"].unique())
    rows = []
    for i, metric in enumerate(paper.metric.unique()):
        part = paper[paper.metric == metric]
        groups = [(f"N = {n}", part[part.n_passes == n]) for n in sorted(part.n_passes.dropna().unique())]
        for name, of_n in [*groups, ("N not known", part[part.n_passes.isna()])]:
            values = {level: of_n[of_n.slice == level].to_dict("records") for level in levels}
            cells = {caption.at(k): " · ".join(f"{printed(row)} %" for row in values[k]) for k in levels}
            rows += [{"passes": f"{name}: {metric}" if i else name} | cells] if len(of_n) else []
    return pd.DataFrame(rows)


def printed(row: Mapping[Any, Any]) -> str:
    """A value of the paper in percent, with its digits: about 10, > 30, 21.0."""
    qualifier = next((f"{word} " for word in QUALIFIERS if row["note"].startswith(word)), "")
    return f"{qualifier}{Decimal(row['value']).scaleb(2)}"


def paper_notes(caption: Caption, paper: pd.DataFrame) -> list[str]:
    """The notes on the paper's values, each once with all its places."""
    places: dict[str, list[str]] = {}
    for row, known in zip(paper.to_dict("records"), paper.n_passes.notna(), strict=True):
        qualifier = next((word for word in QUALIFIERS if row["note"].startswith(word)), "")
        passes = f"N = {row['n_passes']}, " if known else ""
        if note := row["note"].removeprefix(qualifier).lstrip("; "):
            places.setdefault(note, []).append(f"{passes}{caption.at(row['slice'])}")
    return [f"{'; '.join(dict.fromkeys(where))}: {note}." for note, where in places.items()]


def accuracy_table(caption: Caption, numbers: Mapping[str, Any]) -> pd.DataFrame:
    """Test accuracy for each slice and N with intervals, and the paired difference from the smallest N (or t)."""
    names = {"slice": caption.level, "n_passes": "N"}
    keys = [key for key in names if key in numbers["test_exact"][0]]
    differences = {tuple(r[key] for key in keys): r for r in numbers.get("difference", [])}
    bases = {f" from {names[caption.compares]} = {r['base']}" for r in differences.values() if caption.compares}
    rows, records = [], sorted(numbers["test_exact"], key=lambda r: [r[key] for key in keys])
    for record in records:
        difference = differences.get(tuple(record[key] for key in keys))
        single = "scores" in record
        row = {names[key]: str(record[key]) for key in keys} | {"right": percent(record["value"])}
        row[OVER_SEEDS] = ", ".join(map(percent, record["scores"])) if single else interval(Estimate.of(record))
        row[OVER_ROWS] = interval(Estimate.of(record, "wilson_"))
        row |= {"seeds": str(record["n"]), caption.counted: f"{record['answers']:,}" if "answers" in record else ""}
        rows.append(row | {"points" + "".join(bases): points(Estimate.of(difference)) if difference else ""})
    table = pd.DataFrame(rows)
    table = table.drop(columns=[name for name in (OVER_SEEDS, OVER_ROWS) if (table[name] == "–").all()])
    of_two = ["scores" in record for record in records]
    title = "scores of both seeds" if all(of_two) else OVER_SEEDS + OF_TWO if any(of_two) else OVER_SEEDS
    return table.rename(columns={OVER_SEEDS: title})


def controls_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Accuracy as trained and with S cut, for each figure and N."""
    wide = pd.DataFrame(records).pivot(index=["figure", "n_passes"], columns="metric", values="value")
    shares = wide[["test_exact", "cut_exact"]].map(percent).reset_index()
    return shares.set_axis(["figure", "N", "as trained", "S cut"], axis=1)


def verdicts_table(records: Sequence[dict[str, Any]], arm: str = "title") -> pd.DataFrame:
    """The comparison of each record, its difference with interval, and its verdict; of an arm its `title` or
    `question`, what it is compared with and its accuracy."""
    rows = []
    for r in records:
        if "exact" in r:
            row = {"arm": r[arm], "against": r["against"], "right": percent(r["exact"])}
        else:
            row = {column_name(key): format_value(r[key]) for key in r if key not in (*Estimate._fields, "verdict")}
        rows.append(row | {"points": points(Estimate.of(r)), "seeds": str(r["n"]), "verdict": r["verdict"]})
    return pd.DataFrame(rows)


def losses_table(numbers: Mapping[str, Any]) -> pd.DataFrame:
    """Losses on unseen files of each N after equal steps, of N = 1 after the operations of others, and differences;
    `numbers` are text.json, see `plots.text.natural_text`."""
    differences = {(r["n_passes"], r["trained_as"], r["against"]): Estimate.of(r) for r in numbers["text"]}
    rows = []
    for r in (r for r in numbers["losses"] if r["metric"] == "test_loss"):
        n, trained_as, loss = r["n_passes"], r["trained_as"], Estimate.of(r)
        row = {"run": f"N = {n}" + (f", operations of N = {trained_as}" if n != trained_as else "")}
        row |= {"tokens": millions(r["tokens"], 1), "nats a byte": f"{loss.value:.4f}"}
        row["95 % interval"] = "–" if loss.low != loss.low else f"{loss.low:.4f} to {loss.high:.4f}"
        for against in (STEPS, OPERATIONS):
            difference = differences.get((n, trained_as, against))
            row[f"less N = 1 after {against}"] = nats(difference) if difference else ""
        rows.append(row)
    return pd.DataFrame(rows)


def records_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """All records, a column for each key."""
    return pd.DataFrame(records, dtype=object).map(format_value).rename(columns=column_name)


def column_name(key: str) -> str:
    """n_passes -> N, at_test -> at test."""
    return "N" if key == "n_passes" else key.replace("_", " ")


def format_value(value: Any) -> str:
    """A value as text, floats with four digits, large numbers with commas; a dash for None and NaN."""
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
