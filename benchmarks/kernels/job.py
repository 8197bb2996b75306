"""What a comparison of kernels is made of: sizes, a thing to compute, and ways to compute it.

A way of a library names what it imports ("module:function"), takes that before the inputs, and needs a GPU; a library
is imported only when it is used, and none has to be installed.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor

from lmsleep.model import HybridConfig

Run = Callable[..., Sequence[Tensor]]
EPS = 1e-6
LIGER, FLA, FLASH, MAMBA, CONV = "liger-kernel", "flash-linear-attention", "flash-attn", "mamba-ssm", "causal-conv1d"
FLA_GATED = "fla.modules.norm.fused_norm_gate:rms_norm_gated"


class Way(NamedTuple):
    """How a library, or we, compute it: `run` takes what `addresses` name, and then the inputs."""

    run: Run
    addresses: tuple[str, ...] = ()

    def load(self) -> Run:
        """What takes inputs alone. Raises ImportError where the library is not installed."""
        parts = [address.split(":") for address in self.addresses]
        found = [getattr(import_module(module), name) for module, name in parts]
        return lambda *inputs: self.run(*found, *inputs)


def by(run: Run, *addresses: str) -> Way:
    return Way(run, addresses)


class Job(NamedTuple):
    """One thing to compute.

    Attributes:
        make: draws inputs, all of which get gradients.
        definition: from inputs to outputs, as every way.
        torch: by torch's own operations, for a compiler too.
        ways: ours, if we have a kernel for it, and those of libraries.
    """

    make: Callable[[], list[Tensor]]
    definition: Run
    torch: Run
    ways: dict[str, Way]


class Subject(NamedTuple):
    """The sizes of a run, where and in what dtype its products are made."""

    config: HybridConfig
    rows: int
    device: torch.device
    dtype: torch.dtype

    @property
    def tokens(self) -> tuple[int, int]:
        """Rows, and tokens of a window."""
        return self.rows, self.config.window_size or 1

    def draw(self, *shape: int, dtype: torch.dtype | None = None, around: float = 0.0, spread: float = 1.0) -> Tensor:
        """Normal numbers, in the dtype of products unless another is asked for."""
        drawn = around + spread * torch.randn(*shape, device=self.device)
        return drawn.to(dtype or self.dtype).requires_grad_()

    def weight(self, *shape: int) -> Tensor:
        """Numbers near one in float32, of which some libraries multiply gradients in place, again and again."""
        return self.draw(*shape, dtype=torch.float32, around=1.0, spread=0.1)
