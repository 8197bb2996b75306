"""The results of each figure in a folder, and the verdict on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import yaml

from lmsleep import tidy
from lmsleep.checks import naming_file, read_object, require, typed
from lmsleep.figures.stats import FEWEST, OPERATIONS, STEPS, UNDECIDED, Estimate, verdict
from lmsleep.figures.words import counted, nats, points
from lmsleep.tidy import ANY_INTEGER

SAME, OPPOSITE = "same direction", "opposite direction"
SLEEP_HELPS, HELPS_AT_STEPS, SLEEP_HARMS = "sleep helps", "helps at equal steps alone", "sleep harms"
TONE = {"agrees": "good", "disagrees": "bad", "not reached": "", "not run": ""}
META = {"runs": int, "seconds": float} | dict.fromkeys(("hardware", "torch", "commit"), tuple[str, ...])
PAPER_COLUMNS = ["figure", "model", "n_passes", "slice", "metric", "value", "note"]
WRITTEN = (*TONE, SAME)  # verdicts written by hand at paper scale
TONE |= {SAME: "good", OPPOSITE: "bad", UNDECIDED: "", SLEEP_HELPS: "good", HELPS_AT_STEPS: "", SLEEP_HARMS: "bad"}


@dataclass(frozen=True)
class Caption:
    """An entry of captions.yaml."""

    name: str
    title: str
    shows: str
    paper: str
    level: str = ""
    scored: str = "answers"
    compares: str | None = None
    direction: int = 1
    ours: bool = False
    measured: bool = False
    borrows: bool = False
    by_hand: bool = False
    scales: tuple[str, ...] = ("smoke", "mini", "gpu", "paper")

    @property
    def counted(self) -> str:
        """The title of a column that counts what was scored."""
        return f"{self.scored} of all seeds"

    def at(self, level: int) -> str:
        """A slice in words: t = 32, 1 hop, 6 operations."""
        return f"t = {level}" if self.level == "t" else counted(level, self.level)


_ENTRIES = yaml.safe_load(Path(__file__).with_name("captions.yaml").read_text(encoding="utf-8"))
CAPTIONS = {name: Caption(name, **entry) for name, entry in _ENTRIES.items()}


@dataclass(frozen=True)
class Verdict:
    """A word of TONE, and the sentence that supports it."""

    word: str
    sentence: str

    @property
    def tone(self) -> str:
        """The class of the word in the style sheet."""
        return TONE[self.word]


@dataclass(frozen=True)
class Result:
    """The results of one figure.

    Attributes:
        numbers: the content of <figure>.json, or of <figure>.csv for measurements; empty if there is no such file.
        svg: the picture, or None.
        seeds, tokens: of the runs in <figure>.csv, sorted; tokens a run was trained on.
        meta: the content of <figure>.meta.json, or empty.
        has_runs: whether it has its own runs, unlike figures drawn from the scores of others.
    """

    caption: Caption
    numbers: dict[str, Any]
    svg: str | None
    seeds: tuple[int, ...]
    tokens: tuple[int, ...]
    meta: dict[str, Any]
    has_runs: bool
    verdict: Verdict | None

    @property
    def missing(self) -> list[str]:
        """The files of the figure that do not exist."""
        there = {"svg": self.svg is not None, "csv" if self.caption.measured else "json": bool(self.numbers)}
        return [f"{self.caption.name}.{suffix}" for suffix, exists in there.items() if not exists]


def load(folder: Path, scale: str) -> dict[str, Result]:
    """The results of every figure of CAPTIONS at a scale, by its name. At paper scale, a verdict in
    <folder>/verdicts.yaml (`fig2b: {verdict: agrees, sentence: ...}`) replaces the computed one. Raises ValueError if
    there is no such folder, or a verdict is not one of WRITTEN."""
    require(folder.is_dir(), "results must be a folder with the figures of a scale", str(folder))
    written = read_verdicts(folder / "verdicts.yaml") if scale == "paper" else {}
    captions = [caption for caption in CAPTIONS.values() if scale in caption.scales]
    return {caption.name: load_figure(folder, caption, written.get(caption.name)) for caption in captions}


def load_figure(folder: Path, caption: Caption, written: Verdict | None = None) -> Result:
    """The results of a figure; a `written` verdict replaces the computed one."""
    svg, csv, json, made = (folder / f"{caption.name}.{suffix}" for suffix in ("svg", "csv", "json", "meta.json"))
    numbers, meta = read_object(json) if json.exists() else {}, read_meta(made)
    has_runs = csv.exists() and not caption.borrows
    seeds, tokens = runs_of(csv) if has_runs else ((), ())
    if caption.measured and csv.exists():
        with naming_file(csv):
            keys = ["model", "n_passes", "slice", "tokens"]
            wide = tidy.read(csv).astype({"slice": int}).pivot(index=keys, columns="metric", values="value")
            numbers = {"measurements": wide.reset_index().to_dict("records")}
    picture = read_drawing(svg) if svg.exists() else None
    with naming_file(json):
        verdict = written or (text_verdict(numbers["text"]) if "text" in numbers else effect_verdict(caption, numbers))
    return Result(caption, numbers, picture, seeds, tokens, meta, has_runs, verdict)


def read_meta(path: Path) -> dict[str, Any]:
    """How the runs of a figure were made, see `figures.table`; empty if there is no file. Raises ValueError, with the
    path, if a value is of another kind."""
    with naming_file(path):
        meta = read_object(path) if path.exists() else {}
        return {key: typed(META.get(key, Any), value, key) for key, value in meta.items()}


def read_drawing(path: Path) -> str:
    """An SVG file. Raises ValueError if it is not well-formed, or has scripts, animations or event handlers."""
    with naming_file(path):
        text = path.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        does = {e.tag.rpartition("}")[2] for e in root.iter()} & {"script", "foreignObject", "iframe", "animate", "set"}
        does |= {name for e in root.iter() for name in e.keys() if name.startswith("on")}  # noqa: SIM118
        require(root.tag.rpartition("}")[2] == "svg" and not does, "must be a drawing", ", ".join(does) or root.tag)
        return text


def runs_of(csv: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds and the training tokens of the runs in a table: at the test or, of those not tested, at the last
    validation."""
    table = tidy.read(csv)
    scored = table[table.metric.isin(("test_exact", "val_exact"))]
    last = scored.groupby(["model", "n_passes", "seed", "slice"]).tokens.max().reset_index()
    return tuple(sorted(map(int, last.seed.unique()))), tuple(sorted(map(int, last.tokens.unique())))


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """The verdicts in a file by figure; empty if there is no file."""
    with naming_file(path):
        entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}
        for figure, entry in entries.items():
            allowed = f"verdict of {figure} must be one of {', '.join(WRITTEN)}"
            require(entry["verdict"] in WRITTEN, allowed, entry["verdict"])
        return {figure: Verdict(entry["verdict"], entry["sentence"]) for figure, entry in entries.items()}


def effect_verdict(caption: Caption, numbers: dict[str, Any]) -> Verdict | None:
    """Whether the effect has the direction of the paper's; None without numbers or direction. The comparison is fixed
    beforehand: the largest N (or t) against the smallest, over the answers of all slices together."""
    records = numbers.get("difference" if caption.compares == "slice" else "overall", [])
    if caption.compares is None or not records:
        return None
    last = max(records, key=lambda record: (record[caption.compares], record.get("tokens", 0)))
    difference = Estimate.of(last)
    symbol = "t" if caption.compares == "slice" else "N"
    compared = f"{symbol} = {last[caption.compares]} against {symbol} = {last['base']}"
    sentence = f"{compared}: {points(difference)} points of accuracy, {seeds_in_words(difference.n)}."
    return Verdict(direction(difference, caption.direction), sentence)


def text_verdict(records: Sequence[Mapping[Any, Any]]) -> Verdict:
    """Whether the largest N has a lower loss than N = 1 over all bytes, at equal steps and at up to equal FLOPs;
    `records` are `text` of text.json, see `plots.text.differences`."""
    most = max(record["n_passes"] for record in records)
    differences = {record["against"]: Estimate.of(record) for record in records if record["n_passes"] == most}
    steps, operations = (direction(differences[against], -1) for against in (STEPS, OPERATIONS))
    helps = SLEEP_HELPS if operations == SAME else HELPS_AT_STEPS
    word = {SAME: helps, OPPOSITE: SLEEP_HARMS, UNDECIDED: UNDECIDED}[steps]
    spans = ", ".join(f"{nats(differences[against])} after {against}" for against in (STEPS, OPERATIONS))
    seeds = seeds_in_words(differences[STEPS].n)
    return Verdict(word, f"N = {most} against N = 1, nats a byte of unseen files: {spans}; {seeds}.")


def seeds_in_words(n: int) -> str:
    """The number of seeds of an interval, in words."""
    few = "one seed, which gives" if n == 1 else f"{n} seeds, which give"
    return f"paired over {n} seeds" if n >= FEWEST else f"from {few} no interval over seeds"


def direction(difference: Estimate, expected: int) -> str:
    """SAME or OPPOSITE if the interval of a difference excludes zero, else UNDECIDED."""
    return verdict(difference, SAME, OPPOSITE) if expected > 0 else verdict(difference, OPPOSITE, SAME)


def paper_values(path: Path) -> pd.DataFrame:
    """What the paper prints: figure, model, n_passes (NA if not known), slice, metric, value (as printed), note. Raises
    ValueError, with the path, if the table is another."""
    with naming_file(path):
        table = tidy.read_texts(path, PAPER_COLUMNS)[PAPER_COLUMNS]
        counts = {name: tidy.parsed(table[name], ANY_INTEGER).astype("Int64") for name in ("n_passes", "slice")}
        return table.assign(**counts).reset_index(drop=True)
