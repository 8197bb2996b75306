"""Low-rank adapters (LoRA, arXiv 2106.09685), put beside the weights of a pretrained model by peft."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsleep.checks import check_integer, check_types

TARGETS = ("q_proj", "k_proj", "v_proj", "g_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER = "default"  # peft's name for a single adapter


@dataclass(frozen=True)
class Lora:
    """Trains W + alpha / rank B A with W (O, D) frozen; A (rank, D), B (O, rank).

    Inserted fast-weight layers train whole, and so do the parts of the checkpoint's fast-weight layers that are no
    targets (gates, decay, taps), which are small and decide what a sleep writes and forgets. The rest is frozen.

    Args:
        rank: of B A.
        alpha: numerator of the scale; None: twice the rank.
        targets: names of linear layers in blocks; of the default, those that exist.

    Raises:
        ValueError: if a number is out of range or there is no target.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        check_types(self)
        check_integer("lora.rank", self.rank, 1, 2**31 - 1)
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ValueError(f"lora.alpha must be finite and more than 0, or None, got {self.alpha}")
        if not self.targets:
            raise ValueError("lora.targets must name a linear layer, got none")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 2.0 if self.alpha is None else self.alpha / self.rank


def merged(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights of a model with adapters merged, W + scale B A, under the names of a model without."""
    whole = {}
    for name, value in weights.items():
        layer, adapted, kind = name.partition(".base_layer.")
        if adapted and kind == "weight":
            A, B = (weights[f"{layer}.lora_{part}.{ADAPTER}.weight"].float() for part in "AB")
            value = torch.add(value.float(), B @ A, alpha=scale).to(value.dtype)
        if ".lora_" not in name:
            whole[f"{layer}.{kind}" if adapted else name] = value
    return whole
