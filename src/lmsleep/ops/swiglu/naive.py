"""The definition of the activation of a gated feed-forward layer."""

from torch import Tensor


def swiglu_naive(gate: Tensor, up: Tensor) -> Tensor:
    """gate / (1 + exp(-gate)) * up, (..., D) each."""
    return gate / (1 + (-gate).exp()) * up
