"""A text whose numbers have owners: tables between markers, sentences, and what a text may say by itself."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

NUMBER = r"[-+−]?\d+(?:[.,]\d+)*"
# What may change in a sentence when its data do: numbers, but for those of a setting, and where an interval lies.
VARIABLE = re.compile(rf"(?<!N = )(?<!t = )(?<![\d.,]){NUMBER}|(?:above|around|below)\s+zero")
TABLE = r"(?<=<!-- table: {} -->\n)(?:\|.*\n)*(?=<!-- end -->)"
# What must have an owner: amounts with a unit and lists of them, numbers with a sign, decimals.
UNITS = r"(?:%|points\b|nats\b|times\b|ms\b|[kMB]\b)"
LIST = rf"{NUMBER}(?:(?:,| to| and|, and| or) {NUMBER})*"
MEASURED = re.compile(rf"{LIST} ?{UNITS}|(?:[+−±] ?|(?<![\w-])-)\d+(?:[.,]\d+)*|\d+\.\d+")
# Code, addresses and comments, whose numbers are no measurements.
MASKED = re.compile(r"^```.*?^```$|`[^`\n]*`|\]\([^)]*\)|https?://\S+|<!--.*?-->", flags=re.M | re.S)


# Numbers that no run of ours measured: settings, versions, the paper's numbers.
OWN = (
    r"arXiv\s+\d{4}\.\d{5}",
    r"Python 3\.\d+(?: to 3\.\d+)?",
    r"torch 2\.\d+",
    r"Jet-Nemotron\s+2B|Ouro 1\.4B",
    r"Physics of Language Models\* 4\.1",
    r"95 % (?:t |Wilson )?intervals?",
    r"(?:5|4\.6) B\b",  # tokens, the paper's budgets
    r"N = 1, 40 M tokens, one run each",  # the budget of figure 2a
    r"4\.0 times the operations",
    r"60k to 150k parameters",
    r"of 80 GB",
    r"scores 1\.66",  # log 75 over the tokens of an answer: tests/tasks/test_depo_chance.py
    r"over the last\s+60 %",  # a setting that was tried
)


@dataclass(frozen=True)
class Document:
    """What a text must hold.

    Attributes:
        path: from the root of the repository.
        tables: Markdown by name. In the text it stands between a line `<!-- table: NAME -->` and a line `<!-- end -->`.
        sentences: what the text says, lines broken anywhere.
        own: patterns of numbers that no run of ours measured.
    """

    path: str
    tables: dict[str, str] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


def document(path: str, tables: dict[str, pd.DataFrame], sentences: tuple[str, ...] = ()) -> Document:
    """A text with these tables, written in Markdown, and sentences."""
    return Document(path, {name: markdown(table) for name, table in tables.items()}, sentences, OWN)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, with its last line ended; empty where a row lacks a column."""
    lines = [table.columns, *table.fillna("").itertuples(index=False)]
    written = [f"| {' | '.join(map(str, line))} |\n".replace("|  ", "| ") for line in lines]
    return "".join([written[0], "|---" * len(table.columns) + "|\n", *written[1:]])


def faults(document: Document, text: str) -> list[str]:
    """The tables and sentences that the text lacks, and the measured numbers in it that nothing owns."""
    wrong, covered = [], [m.span() for m in MASKED.finditer(text)]
    for name, rows in document.tables.items():
        match = re.search(TABLE.format(re.escape(name)), text)
        if match is None or match[0] != rows:
            wrong.append(f"table {name} is not there, or not as its data say")
        covered += [match.span()] if match else []
    for sentence in document.sentences:
        spans = [m.span() for m in re.finditer(_words(sentence), text)]
        covered += spans
        if not spans:
            wrong.append(f"it does not say: {sentence}")
    covered += [m.span() for pattern in document.own for m in re.finditer(pattern, text)]
    rest = _blank(text, covered)
    wrong += [f"line {rest.count(chr(10), 0, m.start()) + 1}: nothing owns {m[0]!r}" for m in MEASURED.finditer(rest)]
    return [f"{document.path}: {fault}" for fault in wrong]


def renewed(document: Document, text: str) -> str:
    """The text with its tables as their data say, and with the numbers of sentences that stand in it once with others.

    A sentence whose words no longer hold is left as it is, for a person to write.
    """
    for name, rows in document.tables.items():
        text = re.sub(TABLE.format(re.escape(name)), lambda _, rows=rows: rows, text, count=1)
    for sentence in document.sentences:
        if re.search(_words(sentence), text):
            continue
        matches = list(re.finditer(_any_numbers(sentence), text))
        if len(matches) == 1:
            text = _put(text, matches[0], VARIABLE.findall(sentence))
    return text


def _words(sentence: str) -> str:
    """A pattern of the sentence with its lines broken anywhere, and no more digits at its ends."""
    return r"(?<![\d.])" + r"\s+".join(re.escape(word) for word in sentence.split()) + r"(?![\d%])"


def _any_numbers(sentence: str) -> str:
    """The same with any numbers, each a group."""
    literal = [r"\s+".join(map(re.escape, re.split(r"\s+", part))) for part in VARIABLE.split(sentence)]
    return rf"({VARIABLE.pattern})".join(literal)


def _put(text: str, match: re.Match[str], values: list[str]) -> str:
    """The text with the groups of the match replaced."""
    for i in reversed(range(len(values))):
        start, end = match.span(i + 1)
        if text[start:end].split() != values[i].split():
            text = text[:start] + values[i] + text[end:]
    return text


def _blank(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with spaces where the spans are; lines stay."""
    characters = list(text)
    for start, end in spans:
        characters[start:end] = ["\n" if c == "\n" else " " for c in characters[start:end]]
    return "".join(characters)
