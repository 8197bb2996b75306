"""The numbers of README.md."""

import json
from pathlib import Path

from tests.documents.document import Document, document
from tests.documents.pages.arms import arm_verdicts, of_arm
from tests.documents.pages.claims import claims
from tests.documents.pages.rule110 import SECOND_SEED, WITHOUT, end_2b, ends_2b
from tests.documents.scores import means, passes, scores
from tests.documents.words import NUMERALS, listed, percents

from lmsleep.figures.words import percent

STEPS = "train_h100_8d87959.json"  # the newest in results/bench


def documents(root: Path) -> list[Document]:
    """The page."""
    return [document("README.md", {"claims": claims(root)}, sentences(root))]


def sentences(root: Path) -> tuple[str, ...]:
    """What the page says of figure 2b, what it is compared with, and the paper's budgets."""
    gpu = root / "results/gpu"
    shown = scores(gpu / "fig2b.csv")
    alone, *asleep = means(shown, passes(shown))
    arms = {record["arm"]: record for record in arm_verdicts(gpu, "controls", "arms")}
    n4, with_as_many = of_arm(gpu, "n4"), [of_arm(gpu, arm) for arm in ("steps4", "deep16")]
    (won,) = {(int((runs > n4).sum()), len(runs)) for runs in with_as_many}  # the same of both arms
    return (
        f"Without sleep (N = 1) all four are right in {percent(alone)} of test rows, with N = "
        f"{listed(map(str, passes(shown)[1:]))} in {percents(asleep)}",
        f"Is it sleep, or just more computing? {arms['steps4']['verdict'].capitalize()}",
        "models without sleep but with more steps (one far behind) or blocks are ahead in "
        f"{NUMERALS[won[0]]} of {NUMERALS[won[1]]} seeds",
        f"one seed of each N ends at {percents(ends_2b(root / 'results/paper'))}",
        f"another seed: {percent(end_2b(root / 'results/paper', SECOND_SEED).value)}",
        f"without its short convolution ({percent(end_2b(root / 'results/paper', WITHOUT).value)})",
        whole_runs(root),
    )


def step_times(root: Path, of: str = "ms_per_step") -> dict[tuple[str, int], float]:
    """Milliseconds of a training step on an H100, or another of its numbers, by configuration and N, at the commit that
    the file names."""
    timed = json.loads((root / "results/bench" / STEPS).read_text())["rows"]
    return {(row["run"], row["n_passes"]): row[of] for row in timed if row["commit"] in STEPS}


def whole_runs(root: Path) -> str:
    """How long a run of the paper's budget would take, its steps alone."""
    ms = step_times(root)
    rule = [97_657 * ms["rule110.yaml", n] / 60_000 for n in (1, 4)]
    depo = [100_000 * ms["depo_4block.yaml", n] / 3_600_000 for n in (1, 4)]
    return (
        f"figure 2b would take {rule[0]:.0f} (N = 1) to {rule[1]:.0f} minutes (N = 4) a seed on one H100, figure 3 as "
        f"4 blocks {depo[0]:.1f} to {depo[1]:.1f} hours"
    )
