"""The tables of README.md and of the pages in results/, as frames of texts, and the sets of runs that they are of."""

from pathlib import Path

import pandas as pd

from lmsleep.figures.pages import arms, claims, gpu, overview, paper, rule110, seeds


def tables(root: Path) -> dict[str, dict[str, pd.DataFrame]]:
    """The tables of each page by name, in the repository `root`."""
    mini, extra, large, small = (root / "results" / name for name in ("mini", "seeds", "paper", "gpu"))
    return {
        "README.md": {"claims": claims.claims(root)},
        "results/README.md": overview.tables(root),
        "results/mini/README.md": {"pilots": seeds.pilots(mini / "pilots.csv")},
        "results/seeds/README.md": {"fig2b": seeds.fig2b(extra / "fig2b.csv"), "fig3": seeds.fig3(extra / "fig3.csv")},
        "results/paper/README.md": paper.tables(large) | rule110.tables(large),
        "results/gpu/README.md": gpu.tables(small) | arms.tables(small),
    }
