"""The training runs that are measured, and the ways to take their steps."""

from dataclasses import dataclass

import torch

from lmsleep.bench.peers import gated_delta_transformers
from lmsleep.model import HybridConfig
from lmsleep.ops.backend import Backend, offer
from lmsleep.tasks import Depo, Rule110, Task

offer("gated_delta", Backend("transformers", lambda: gated_delta_transformers, automatic=False))


@dataclass(frozen=True)
class Preset:
    """A training run to take a step of."""

    task: Task
    model: HybridConfig
    batch_size: int


PRESETS = {
    "rule110-mini": Preset(
        Rule110(steps=4, width=12, n_states=2), HybridConfig(d_model=48, pattern="AG", n_heads=2), 64
    ),
    "rule110-paper": Preset(Rule110(), HybridConfig(d_model=256, pattern="AGAG", n_heads=4), 512),
    "depo-paper": Preset(Depo(), HybridConfig(d_model=512, pattern="AGAGAGAGAG", n_heads=8), 128),
}
# name -> (how the step is run, forced backends); "ours" with the backends that ops choose by themselves
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "ours": ("none", {}),
    "ours, compiled": ("compile", {}),
    "ours, graph": ("graph", {}),
    "ours, compiled graph": ("compile+graph", {}),
    "transformers": ("none", {"gated_delta": "transformers"}),
    "fla": ("none", {"gated_delta": "fla"}),
}
DEFAULT_VARIANTS = {"cpu": ["ours", "transformers"], "cuda": ["ours, compiled graph", "ours, graph", "ours", "fla"]}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
