"""What each figure shows, and what the paper says of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """The words around one figure.

    Attributes:
        name: the stem of its files.
        title: the heading.
        shows: what the picture draws, for readers who do not see it.
        paper: the finding that the paper states.
        level: what a slice counts.
        compares: the column whose effect the verdict is about, None where there is no verdict on a direction.
        direction: 1 if the paper's accuracy rises with that column, -1 if it falls.
        ours: whether the figure is ours alone.
        measured: whether its numbers are times and sizes, read from its table.
        borrows: whether it is drawn from the tables of other figures, with no runs of its own.
    """

    name: str
    title: str
    shows: str
    paper: str
    level: str = ""
    compares: str | None = "n_passes"
    direction: int = 1
    ours: bool = False
    measured: bool = False
    borrows: bool = False

    def at(self, level: int) -> str:
        """A slice in words: t = 32, 1 hop, 6 operations."""
        if self.level == "t":
            return f"t = {level}"
        return f"{level} {self.level.removesuffix('s') if level == 1 else self.level}"


CAPTIONS = (
    Caption(
        "fig2a",
        "Figure 2a: longer rollouts are harder for a plain hybrid",
        "Lines of exact accuracy on Rule 110 against training tokens, one for each number of steps t, all with N = 1.",
        "At the same sequence length, accuracy within a fixed token budget falls quickly as t rises (t = 4 to 16).",
        level="t",
        compares="slice",
        direction=-1,
    ),
    Caption(
        "fig2b",
        "Figure 2b: sleep on Rule 110",
        "Lines of exact accuracy on Rule 110 against training tokens, one for each N, with lines at the majority "
        "answer and at a uniform guess.",
        "At t = 32, N = 1 stays near random guessing for about 5 B tokens; more passes score more.",
        level="t",
    ),
    Caption(
        "fig3",
        "Figure 3: sleep on Depo",
        "Three rows of panels, one column for each number of hops: held-out loss over the colon and the answer, loss "
        "over the answer alone, and exact answers against training tokens, one line for each N. Dotted lines: for the "
        "losses, a guess among the names of the cycle; for the answers, one who knows both neighbours of the node that "
        "is asked about and guesses among the other names, and one who knows the cycle but not which way it goes.",
        "More passes speed up learning from 4 hops on: N = 1 makes little progress there, N = 2 stalls from 8 hops, "
        "only N = 4 begins to improve at 16 hops.",
        level="hops",
    ),
    Caption(
        "fig4a",
        "Figure 4a: GSM-Infinite, hard eviction, gated-delta hybrid",
        "Panels of exact answers against training tokens, one for each number of operations, one line for each N.",
        "2 and 4 operations saturate for every N; the gap between values of N widens with the number of operations.",
        level="operations",
    ),
    Caption(
        "fig4b",
        "Figure 4b: GSM-Infinite, hard eviction, looped transformer with Jet layers",
        "Panels of exact answers against training tokens, one for each number of operations, one line for each N.",
        "As in figure 4a, with larger gains at 6 and 8 operations.",
        level="operations",
    ),
    Caption(
        "fig5",
        "Figure 5: GSM-Infinite, sliding-window eviction",
        "Panels of exact answers against training tokens, one for each number of operations, one line for each N.",
        "More passes help at every number of operations, most at 2.",
        level="operations",
    ),
    Caption(
        "fig6",
        "Figure 6: training throughput",
        "Training throughput in tokens per second against window size, fully parallel, windowed, and for each N.",
        "Reading in windows costs nothing noticeable once the window is large; throughput is about "
        "proportional to 1/N.",
        compares=None,
        measured=True,
    ),
    Caption(
        "latency",
        "Latency and memory while awake",
        "Time per token and memory of a streaming session against the context read so far and N, "
        "beside a full-attention cache.",
        "The paper says that the latency of an answer does not change and never times it; this measurement is ours.",
        compares=None,
        measured=True,
        ours=True,
    ),
    Caption(
        "controls",
        "Control: the fast weights cut",
        "Test accuracy against N as trained and with S set to zero at every window boundary, one panel "
        "for each figure.",
        "Not in the paper. If S alone crosses the boundary, cutting it leaves only what can be guessed.",
        compares=None,
        ours=True,
        borrows=True,
    ),
    Caption(
        "ablations",
        "Ablation: other passes at test than in training",
        "Test accuracy against the N used at test, one line for each N used in training, one panel for each figure.",
        "Not in the paper, which tests every model with the N that it was trained with.",
        compares=None,
        ours=True,
        borrows=True,
    ),
)
