r"""A sleep of one's own in one file: N by window, the first of a sequence having more passes than later ones.

PYTHONPATH=examples lmsleep fit --config configs/experiment/rule110.yaml \
    --sleep.on_overflow=passes_by_window.PassesByWindow --sleep.on_overflow.passes=[4,2]
"""

from dataclasses import dataclass

from torch import Tensor

from lmsleep import FastWeights
from lmsleep.sleep import WindowPass, sleep


@dataclass(frozen=True)
class PassesByWindow:
    """Passes 2..N over a window that already had its wake pass.

    Args:
        passes: N of the first window, of the second, ...; the last counts for all that follow.
    """

    passes: tuple[int, ...]

    def __call__(self, blocks: WindowPass, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        """h (B, L, D) and S as the wake pass left them -> as the last pass leaves them; `blocks(h, S)` is a pass."""
        return sleep(blocks, h, S, self.passes[min(blocks.number or 0, len(self.passes) - 1)])
