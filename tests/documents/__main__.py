"""Holds the numbers of the texts to the tables that they follow from.

python -m tests.documents --write

Without --write it says what is wrong. With it, tables and numbers in sentences are made anew, and what is left to say
is the sentences whose words no longer hold and the numbers that follow from no table.
"""

import sys
from pathlib import Path

from tests.documents import gpu, overview, paper, readme, seeds
from tests.documents.document import Document, faults, renewed

from lmsleep.errors import one_sentence
from lmsleep.figures import pages
from lmsleep.figures.tables import markdown

# Numbers that no run of ours measured: settings, versions, the paper's numbers.
OWN = (
    r"arXiv\s+\d{4}\.\d{5}",
    r"Python 3\.\d+(?: or 3\.\d+)?",
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


def main(root: Path = Path(), write: bool = False) -> None:
    """Raises SystemExit with what is wrong, a line each, if anything is."""
    wrong = []
    with one_sentence():
        for document in documents(root):
            path = root / document.path
            if write:
                path.write_text(renewed(document, path.read_text()))
            wrong += faults(document, path.read_text())
    if wrong:
        sys.exit("\n".join(wrong))


def documents(root: Path) -> list[Document]:
    """Every text that prints results."""
    sentences = {
        "README.md": readme.sentences(root),
        "results/README.md": overview.sentences(root),
        "results/mini/README.md": (),
        "results/paper/README.md": paper.sentences(root),
        "results/paper/verdicts.yaml": paper.verdict_sentences(root),
        "results/seeds/README.md": seeds.sentences(root),
        "results/gpu/README.md": gpu.sentences(root),
    }
    frames = pages.tables(root)
    tables = {path: {name: markdown(frame) for name, frame in frames.get(path, {}).items()} for path in sentences}
    return [Document(path, tables[path], sentences[path], OWN) for path in sentences]


if __name__ == "__main__":
    main(write="--write" in sys.argv)
