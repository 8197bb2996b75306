"""The numbers of results/mini/README.md: runs that settings were chosen on."""

from pathlib import Path

import pandas as pd
from tests.documents.document import Document
from tests.documents.sources import markdown


def documents(root: Path) -> list[Document]:
    """The page."""
    return [Document("results/mini/README.md", {"pilots": pilots(root / "results/mini/pilots.csv")})]


def pilots(csv: Path) -> str:
    """Every pilot run; a cell holds the seeds of one N, in order."""
    table, rows = pd.read_csv(csv), []
    for (figure, name, level), part in table.groupby(["figure", "set", "slice"], sort=False):
        seeds = ", ".join(f"{s:.0f}" for s in sorted(part.seed.dropna().unique()))
        cells = []
        for n in (1, 2, 4):
            values = part[part.n_passes == n].sort_values("seed").value
            cells.append(", ".join(f"{100 * v:.0f}" for v in values) + (" %" if len(values) else ""))
        rows.append([str(figure), str(name), str(level), seeds, *cells])
    return markdown(["figure", "runs", "slice", "seeds", "N = 1", "N = 2", "N = 4"], rows)
