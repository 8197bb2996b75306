"""Faster ways to take a training step: compiled blocks, and forward and backward as a CUDA graph each.

With small windows the time goes into launching kernels, and a graph needs one launch.
"""

from collections.abc import Callable, Hashable
from typing import Literal, get_args

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from lmsleep.hub import require
from lmsleep.model import HybridLM
from lmsleep.model.linear import casting_anew
from lmsleep.sleep import Windows
from lmsleep.tasks import Batch

Accelerate = Literal["none", "compile", "graph", "compile+graph"]
Step = Callable[[Batch], tuple[Tensor, ...]]


def check_accelerate(accelerate: str, device: torch.device) -> None:
    """Raises ValueError if the mode is unknown or needs another device."""
    known = get_args(Accelerate)
    require(accelerate in known, f"accelerate must be one of {', '.join(known)}", accelerate)
    if "graph" in accelerate and device.type != "cuda":
        raise ValueError(f"accelerate={accelerate!r} needs a CUDA device, got {device.type}; use 'compile' or 'none'")


def check_trainer(trainer: L.Trainer) -> None:
    """Raises ValueError for what graphs cannot do: their gradients lie where the next backward writes its own, and the
    weights that they read must stay where they are."""
    batches = trainer.accumulate_grad_batches
    require(batches == 1, "trainer.accumulate_grad_batches must be 1 with accelerate='graph'", batches)
    if isinstance(trainer.strategy, ModelParallelStrategy):
        raise ValueError("trainer.strategy must be ddp or a single device with accelerate='graph', got a sharded model")


def compile_blocks(model: HybridLM) -> None:
    """Compiles every block in place; blocks of one kind share their code.

    Each (kind of block, length of a window, with or without gradients) is a variant of its own.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in model.blocks.layers:
        block.compile(dynamic=False)


class StepGraphs:
    """Forward and backward of a training batch as graphs: captured at the first batch, and again when what they depend
    on changes. Clipping and update are not in them.

    Args:
        model: whose parameters train.

    Attributes:
        windows: those of a batch.
    """

    def __init__(self, model: HybridLM) -> None:
        self.model = model
        self.windows: Windows | None = None
        self.graphed: Callable[..., tuple[Tensor, ...]] | None = None
        self.key: Hashable = None

    def observe(self, targets: Tensor, after_loss: bool = False) -> None:
        """Takes which windows sleep from the targets (B, T) of the first batch, while they are still on the CPU.

        Raises:
            ValueError: if a later batch has its loss in other windows.
        """
        found = Windows.of(targets, self.model.window_size, after_loss)
        if self.windows is not None and self.windows.carry_loss != found.carry_loss:
            raise ValueError(
                "accelerate='graph' needs batches that carry loss in the same windows, got "
                f"{_places(found)} after {_places(self.windows)}; use 'compile' or 'none'"
            )
        self.windows = found

    def __call__(self, step: Step, batch: Batch, depends_on: Hashable) -> tuple[Tensor, ...]:
        """What `step` returns for the batch.

        Args:
            step: batch -> the loss first, then what else it reports. It must not wait for the device, nor decide
                anything by the values of a batch.
            depends_on: what `step` depends on besides the batch and the parameters that train.
        """
        trained = tuple(p.requires_grad for p in self.model.parameters())
        key = (tuple(None if x is None else x.shape for x in batch), trained, depends_on)
        if key != self.key:
            self.graphed = None  # its memory goes back before the next capture takes its own
            self.graphed, self.key = _capture(_OfTensors(self.model, step, batch)), key
        assert self.graphed is not None
        # The next replay overwrites the graph's own outputs.
        return tuple(x.clone() for x in self.graphed(*_tensors(batch)))


class _OfTensors(nn.Module):
    """A step as a module: its parameters are the model's, its arguments the tensors of a batch."""

    def __init__(self, model: HybridLM, step: Step, example: Batch) -> None:
        super().__init__()
        self.model, self.step, self.example = model, step, example

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        return self.step(Batch(*(None if x is None else next(given) for x in self.example)))  # pyright: ignore


def _capture(module: _OfTensors) -> Callable[..., tuple[Tensor, ...]]:
    with casting_anew(module.example.tokens.device.type):
        example = tuple(x.clone() for x in _tensors(module.example))
        return torch.cuda.make_graphed_callables(module, example, allow_unused_input=True)  # pyright: ignore


def _tensors(batch: Batch) -> list[Tensor]:
    return [x for x in batch if x is not None]


def _places(windows: Windows) -> list[int]:
    """Which windows carry loss."""
    return [i for i, loss in enumerate(windows.carry_loss) if loss]
