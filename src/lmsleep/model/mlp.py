"""The feed-forward half of a block."""

import torch.nn.functional as F
from torch import Tensor, nn

from lmsleep.model.linear import project


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), 3 * D * hidden parameters."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, hidden, bias=False)
        self.up_proj = nn.Linear(d_model, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        gate, up = project(x, self.gate_proj, self.up_proj)
        return project(F.silu(gate) * up, self.down_proj)[0]
