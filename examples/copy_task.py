"""A task of one's own in one file: say what stood in a window that has left the context.

PYTHONPATH=examples lmsleep fit --config examples/copy_task.yaml --sleep.n_passes=2
"""

from dataclasses import dataclass

import torch

from lmsleep.tasks import IGNORE, Batch, Task
from lmsleep.tasks.base import check_batch_size, stream


@dataclass(frozen=True)
class Copy(Task):
    """Copy the first symbols of one of several windows.

    Row, with 2 windows of 6 symbols and answers of 3; Bk asks for the window k windows back:

        tokens   s s s s s s | t t t t t t | B2 s s
        targets  - - - - - - | - - - - - - |  s s s
        window        0      |      1      |    2

    The targets marked - are ignored by the loss. A row's slice is its k; in training every row draws its own.

    Args:
        n_symbols: symbols that windows are made of.
        n_windows: windows to remember; the slices are 1 to `n_windows` back.
        answer_length: symbols to copy, at most `window_size`.
        window_size: window size L.

    Raises:
        ValueError: if an argument is out of range.
    """

    n_symbols: int = 8
    n_windows: int = 2
    answer_length: int = 3
    window_size: int = 6  # pyright: ignore[reportIncompatibleMethodOverride] (the field is the property)

    def __post_init__(self) -> None:
        for name in ("n_symbols", "n_windows", "answer_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.answer_length > self.window_size:
            raise ValueError(f"answer_length must be at most window_size={self.window_size}, got {self.answer_length}")

    @property
    def vocab_size(self) -> int:
        return self.n_symbols + self.n_windows  # the questions B1, B2, ... follow the symbols

    @property
    def sequence_length(self) -> int:
        return self.n_windows * self.window_size + self.answer_length

    @property
    def slices(self) -> tuple[int, ...]:
        return tuple(range(1, self.n_windows + 1))

    def rows(self, *, split: str, seed: int, step: int, batch_size: int) -> Batch:
        """`batch_size` rows drawn from (seed, split, step) and nothing else, so that every N sees the same batches."""
        check_batch_size(batch_size)
        rng = stream(seed, split, step)
        windows = rng.integers(0, self.n_symbols, (batch_size, self.n_windows, self.window_size))
        back = rng.integers(1, self.n_windows + 1, batch_size)
        if split != "train":  # one slice a step, in turn
            back[:] = self.slices[step % len(self.slices)]
        context, k = torch.from_numpy(windows), torch.from_numpy(back)
        answer = context[torch.arange(batch_size), self.n_windows - k, : self.answer_length]
        question = (self.n_symbols + k - 1)[:, None]
        tokens = torch.cat([context.flatten(1), question, answer[:, :-1]], dim=1)
        targets = torch.cat([torch.full_like(context.flatten(1), IGNORE), answer], dim=1)
        return Batch(tokens, targets, k)
