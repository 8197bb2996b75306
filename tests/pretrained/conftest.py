"""What the tests of both backbones read."""

import pytest
import torch

from lmsleep.windows import IGNORE


@pytest.fixture(scope="session")
def two_windows():
    """two_windows(vocab_size, window_size, rows=2): tokens and targets (rows, 2 L), with loss on the second window."""

    def two_windows(vocab_size, window_size, rows=2):
        torch.manual_seed(1)
        tokens = torch.randint(vocab_size, (rows, 2 * window_size))
        targets = tokens.clone()
        targets[:, :window_size] = IGNORE
        return tokens, targets

    return two_windows
