"""A training step as one CUDA graph: with small windows the time goes into launching kernels, and a graph needs one."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lmsleep.model import HybridLM
from lmsleep.sleep import windows_with_loss
from lmsleep.tasks import Batch

Accelerate = Literal["none", "compile", "graph", "compile+graph"]
Step = Callable[[Batch], tuple[Tensor, ...]]
WARMUP_STEPS = 3  # before the capture: kernels are compiled and tuned, libraries take their workspaces


def check_accelerate(accelerate: str, device: torch.device) -> None:
    """Raises ValueError if the mode is unknown or needs another device."""
    if accelerate not in get_args(Accelerate):
        raise ValueError(f"accelerate must be one of {', '.join(get_args(Accelerate))}, got {accelerate!r}")
    if "graph" in accelerate and device.type != "cuda":
        raise ValueError(f"accelerate={accelerate!r} needs a CUDA device, got {device.type}; use 'compile' or 'none'")


def compile_blocks(model: HybridLM) -> None:
    """Compiles every block in place; blocks of one kind share their code.

    Each (kind of block, length of a window, with or without gradients) is a variant of its own.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in model.blocks.layers:
        block.compile(dynamic=False)


class GraphedStep:
    """Forward and backward of one step, captured once and replayed for every batch of the same shape.

    Args:
        step: batch -> the loss first, then what else the step reports, all of them 0-dimensional. It must not wait for
            the device, nor decide anything by the values of a batch.
        params: those that train.
        batch: an example on the device.
    """

    def __init__(self, step: Step, params: Sequence[nn.Parameter], batch: Batch) -> None:
        self.params = params
        self.batch = Batch(*(None if x is None else x.clone() for x in batch))  # pyright: ignore[reportArgumentType]
        self.graph = torch.cuda.CUDAGraph()
        # Weights that autocast has cast before the capture would stay as they are now.
        torch.clear_autocast_cache()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self._run(step)
                torch.clear_autocast_cache()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph):
            self.outputs, self.grads = self._run(step)
        torch.clear_autocast_cache()

    def _run(self, step: Step) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        outputs = step(self.batch)
        grads = torch.autograd.grad(outputs[0], self.params, allow_unused=True)
        return tuple(x.detach() for x in outputs), grads

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """What `step` returns for this batch; gradients flow from the loss to the parameters alone."""
        for mine, new in zip(self.batch, batch, strict=True):
            if mine is not None and new is not None:
                mine.copy_(new, non_blocking=True)
        return _Replay.apply(self, *self.params)  # pyright: ignore[reportReturnType]


class _Replay(torch.autograd.Function):
    """Replays the whole graph in the forward, and hands out its gradients in the backward."""

    @staticmethod
    def forward(ctx: Any, graphed: GraphedStep, *params: Tensor) -> tuple[Tensor, ...]:
        graphed.graph.replay()
        ctx.graphed = graphed
        outputs = tuple(x.clone() for x in graphed.outputs)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        graphed: GraphedStep = ctx.graphed
        used = [g for g in graphed.grads if g is not None]
        # New tensors: the next replay overwrites the own ones of the graph, while gradients may add up over several.
        scaled = iter(torch._foreach_mul(used, grads[0]))
        return None, *(None if g is None else next(scaled) for g in graphed.grads)


class StepGraphs:
    """The captured step of a run: captured at the first batch, and again when what it depends on changes.

    Args:
        window_size: L.

    Attributes:
        loss_windows: which windows of a batch carry loss. n_sleeps: how many are full and carry none.
    """

    def __init__(self, window_size: int) -> None:
        self.window_size = window_size
        self.loss_windows: list[bool] | None = None
        self.n_sleeps = 0
        self.graphed: GraphedStep | None = None
        self.key: Hashable = None

    def observe(self, targets: Tensor) -> None:
        """Takes which windows sleep from the first batch, while it is still on the CPU.

        Raises:
            ValueError: if a later batch has its loss in other windows.
        """
        found = windows_with_loss(targets, self.window_size)
        if self.loss_windows not in (None, found):
            raise ValueError(
                "accelerate='graph' needs batches that carry loss in the same windows, got "
                f"{windows_of(found)} after {windows_of(self.loss_windows)}; use 'compile' or 'none'"
            )
        self.loss_windows = found
        self.n_sleeps = found[: targets.shape[1] // self.window_size].count(False)

    def __call__(self, step: Step, model: nn.Module, batch: Batch, depends_on: Hashable) -> tuple[Tensor, ...]:
        """What `step` returns for the batch; `depends_on` is what it depends on besides the batch and which parameters
        train."""
        params = [p for p in model.parameters() if p.requires_grad]
        key = (tuple(None if x is None else x.shape for x in batch), tuple(map(id, params)), depends_on)
        if key != self.key:
            self.graphed = None  # its memory goes back before the next capture takes its own
            self.graphed, self.key = GraphedStep(step, params, batch), key
        assert self.graphed is not None
        return self.graphed(batch)


def windows_of(flags: Sequence[bool] | None) -> list[int]:
    return [i for i, flag in enumerate(flags or []) if flag]
