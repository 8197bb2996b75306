"""Holds the numbers of the texts to the tables that they follow from.

python -m lmsleep.pipeline.documents --write

Without --write it says what is wrong. With it, tables and numbers in sentences are made anew, and what is left to say
is the sentences whose words no longer hold and the numbers that follow from no table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lmsleep.errors import one_sentence
from lmsleep.pipeline.documents import mini, paper, readme, seeds
from lmsleep.pipeline.documents.document import Document, faults, renewed


def main(argv: Sequence[str] | None = None) -> None:
    """Raises SystemExit with what is wrong, a line each, if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(), help="of the repository (default: here)")
    parser.add_argument("--write", action="store_true", help="make tables and numbers anew")
    args = parser.parse_args(argv)
    found = []
    with one_sentence():
        for document in documents(args.root):
            path = args.root / document.path
            if args.write:
                path.write_text(renewed(document, path.read_text()))
            found += faults(document, path.read_text())
    if found:
        sys.exit("\n".join(found))


def documents(root: Path) -> list[Document]:
    """Every text that prints results."""
    return [document for page in (readme, mini, paper, seeds) for document in page.documents(root)]


if __name__ == "__main__":
    main()
