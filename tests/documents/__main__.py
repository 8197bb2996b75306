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
    return [document for page in (readme, overview, paper, seeds, gpu) for document in page.documents(root)]


if __name__ == "__main__":
    main(write="--write" in sys.argv)
