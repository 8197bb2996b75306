"""Low-rank adapters (LoRA, arXiv 2106.09685), which peft puts beside the weights of a pretrained model."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsleep.hub import check_integer

TARGETS = ("q_proj", "k_proj", "v_proj", "g_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER = "default"  # peft's name of the only one


@dataclass(frozen=True)
class Lora:
    """Trains W + alpha / rank B A in place of a weight W (O, D) that stays as it was; A (rank, D), B (O, rank).

    Inserted fast-weight layers have no weights worth keeping and train whole, and so does what is no target in those of
    the checkpoint (gates, decay, taps), which is small and decides what a sleep writes and forgets. The rest is frozen.

    Args:
        rank: of B A.
        alpha: of the scale; None: twice the rank.
        targets: the linear layers of blocks, by the last part of their names, of the default those that there are.

    Raises:
        ValueError: if a number is out of range or there is no target.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        check_integer("lora.rank", self.rank, 1, 2**31 - 1)
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ValueError(f"lora.alpha must be finite and more than 0, or None, got {self.alpha}")
        if not self.targets:
            raise ValueError("lora.targets must name a linear layer, got none")

    @property
    def scale(self) -> float:
        """Of B A."""
        return 2.0 if self.alpha is None else self.alpha / self.rank


def merged(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights of a model with adapters, named as those of one without: W + scale B A where there are A and B."""
    found = {}
    for name, value in weights.items():
        layer, adapted, kind = name.partition(".base_layer.")
        if adapted and kind == "weight":
            A, B = (weights[f"{layer}.lora_{part}.{ADAPTER}.weight"].float() for part in "AB")
            value = torch.add(value.float(), B @ A, alpha=scale).to(value.dtype)
        if ".lora_" not in name:
            found[f"{layer}.{kind}" if adapted else name] = value
    return found
