"""Scores of answers, per slice."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from lmsleep.tasks import IGNORE

SCORES = ("loss", "answer_loss", "token", "exact")


def row_scores(logits: Tensor, targets: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and counts of the scores of each row.

    Args:
        logits: (B, P, V). targets: (B, P). answers: (B, P), see `Task.answers`.

    Returns:
        Two tensors (4, B) in the order of `SCORES`: cross entropy in nats over all target tokens, the same over answer
        tokens, answer tokens that are right, and answers all of whose tokens are right.
    """
    counted, answered = targets != IGNORE, answers >= 0
    nll = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
    nll = nll.view_as(targets)
    wrong = answered & (logits.argmax(-1) != targets)
    n_wrong = torch.zeros_like(targets).scatter_add_(1, answers.clamp(min=0), wrong.long())
    n_tokens = torch.zeros_like(targets).scatter_add_(1, answers.clamp(min=0), answered.long())
    present = n_tokens > 0
    sums = [nll.sum(1), (nll * answered).sum(1), (answered & ~wrong).sum(1), (present & (n_wrong == 0)).sum(1)]
    counts = [counted.sum(1), answered.sum(1), answered.sum(1), present.sum(1)]
    return torch.stack([s.double() for s in sums]), torch.stack([c.double() for c in counts])


class SliceScores(Metric):
    """The scores of `row_scores`, accumulated for each slice and over all rows; `has_answers` as of `Task`."""

    full_state_update = False
    sums: Tensor
    counts: Tensor
    rows: Tensor

    def __init__(self, slices: tuple[int, ...], has_answers: bool = True) -> None:
        super().__init__()
        self.slices, self.has_answers = slices, has_answers
        shape = (len(slices) + 1, len(SCORES))
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros(len(slices) + 1, dtype=torch.float64), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> torch.nn.Module:
        """Moves the sums to other devices, but keeps their dtype: in half precision 256 + 1 is 256."""
        return super()._apply(lambda x: x.to(fn(x).device), exclude_state)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the scores."""
        return (*SCORES, "rows", "count") if self.has_answers else ("loss", "token", "rows", "perplexity")

    def update(self, logits: Tensor, targets: Tensor, answers: Tensor, slice_: Tensor) -> None:
        """Adds a batch: (B, P, V), (B, P), (B, P), (B,)."""
        sums, counts = row_scores(logits, targets, answers)
        answered = (counts[SCORES.index("exact")] > 0).double()
        for row, level in enumerate(self.slices):
            of_slice = (slice_ == level).double()
            self.sums[row] += sums @ of_slice
            self.counts[row] += counts @ of_slice
            self.rows[row] += answered @ of_slice
        self.sums[-1] += sums.sum(1)
        self.counts[-1] += counts.sum(1)
        self.rows[-1] += answered.sum()

    def compute(self) -> dict[str, Tensor]:
        """`exact` over all rows, `exact-<slice>` for each slice that had rows, and so on for every score;
        `count-<slice>` is the number of answers of `exact-<slice>`, `rows-<slice>` that of rows with an answer. (Not
        with a slash: to loggers that keep a metric in a file, `exact` would be a file and a folder.) Without answers
        there are `loss`, `perplexity`, which is its exponential, `token` and `rows`."""
        values: dict[str, Tensor] = {}
        for row, level in enumerate([*self.slices, None]):
            if not self.counts[row, 0]:
                continue
            suffix = "" if level is None else f"-{level}"
            means = self.sums[row] / self.counts[row]
            found = dict(zip(SCORES, means, strict=True)) | {"rows": self.rows[row], "perplexity": means[0].exp()}
            found["count"] = self.counts[row, SCORES.index("exact")]
            values |= {f"{name}{suffix}": found[name].float() for name in self.names}
        return values
