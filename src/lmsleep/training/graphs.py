"""A training step as one CUDA graph: with small windows the time goes into launching kernels, and a graph needs one."""

from collections.abc import Callable, Hashable
from typing import Literal, get_args

import lightning as L
import torch
from torch import Tensor

from lmsleep.model import HybridLM
from lmsleep.sleep import Windows
from lmsleep.tasks import Batch
from lmsleep.training.optimizer import MuonAdamW

Accelerate = Literal["none", "compile", "graph", "compile+graph"]
Step = Callable[[Batch], tuple[Tensor, ...]]
WARMUP_STEPS = 3  # before the capture: kernels are compiled and tuned, libraries take their workspaces


def check_accelerate(accelerate: str, device: torch.device) -> None:
    """Raises ValueError if the mode is unknown or needs another device."""
    if accelerate not in get_args(Accelerate):
        raise ValueError(f"accelerate must be one of {', '.join(get_args(Accelerate))}, got {accelerate!r}")
    if "graph" in accelerate and device.type != "cuda":
        raise ValueError(f"accelerate={accelerate!r} needs a CUDA device, got {device.type}; use 'compile' or 'none'")


def check_trainer(trainer: L.Trainer) -> None:
    """Raises ValueError for what a captured step cannot do."""
    for name, allowed in (("accumulate_grad_batches", 1), ("world_size", 1), ("gradient_clip_val", None)):
        if getattr(trainer, name) not in (allowed, None):
            raise ValueError(f"trainer.{name} must be {allowed} with accelerate='graph', got {getattr(trainer, name)}")
    if trainer.precision == "16-mixed":
        raise ValueError("trainer.precision must be bf16-mixed or 32-true with accelerate='graph', got 16-mixed")


def compile_blocks(model: HybridLM) -> None:
    """Compiles every block in place; blocks of one kind share their code.

    Each (kind of block, length of a window, with or without gradients) is a variant of its own.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in model.blocks.layers:
        block.compile(dynamic=False)


class GraphedStep:
    """A whole training step, captured once and replayed for every batch of the same shape: forward, backward, clipping,
    the check for what is not finite, and the update of the weights.

    Args:
        step: batch -> the loss first, then what else the step reports, all of them 0-dimensional. It must not wait for
            the device, nor decide anything by the values of a batch.
        optimizer: its learning rates may change between steps.
        batch: an example on the device.
        grad_clip: largest gradient norm; None: no clipping.
        guarded: whether nothing changes any more once a loss or a gradient is not finite.
    """

    def __init__(
        self, step: Step, optimizer: MuonAdamW, batch: Batch, grad_clip: float | None, guarded: bool = True
    ) -> None:
        device = batch.tokens.device
        self.step, self.optimizer, self.grad_clip, self.guarded = step, optimizer, grad_clip, guarded
        self.batch = Batch(*(None if x is None else x.clone() for x in batch))  # pyright: ignore[reportArgumentType]
        self.rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        # As if all were spoiled: the steps before the capture must change nothing.
        self.spoiled = torch.ones(2, dtype=torch.bool, device=device)
        optimizer.captured, optimizer.spoiled = True, self.spoiled
        self.outputs = self._capture()
        self.spoiled.zero_()

    def _capture(self) -> tuple[Tensor, ...]:
        self.graph = torch.cuda.CUDAGraph()
        # Weights that autocast has cast outside of the graph would stay as they are now.
        torch.clear_autocast_cache()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self._run()
                torch.clear_autocast_cache()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph):
            outputs = self._run()
        torch.clear_autocast_cache()
        return outputs

    def _run(self) -> tuple[Tensor, ...]:
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        outputs = self.step(self.batch)
        trained = [p for p in params if p.requires_grad]
        found = dict(zip(trained, torch.autograd.grad(outputs[0], trained, allow_unused=True), strict=True))
        for p in params:
            p.grad = _in_order_of(p, found.get(p))
        self._update([p.grad for p in trained if p.grad is not None], outputs[0].detach())
        return tuple(x.detach() for x in outputs)

    @torch.no_grad()
    def _update(self, grads: list[Tensor], loss: Tensor) -> None:
        norm = torch.stack(torch._foreach_norm(grads)).norm()
        if self.guarded:
            self.spoiled |= ~torch.isfinite(torch.stack([loss.float(), norm]))
        if self.grad_clip is not None:
            torch._foreach_mul_(grads, (self.grad_clip / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.healthy = 1 - self.spoiled.any().float()
        with torch.autocast(loss.device.type, enabled=False):
            self.optimizer.update(self.rates)

    def replay(self) -> None:
        self.graph.replay()

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """Takes the step with this batch; returns what `step` returns for it."""
        for mine, new in zip(self.batch, batch, strict=True):
            if mine is not None and new is not None:
                mine.copy_(new, non_blocking=True)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self.replay()
        return tuple(x.clone() for x in self.outputs)  # the next replay overwrites the graph's own


class StepGraphs:
    """The captured step of a run: captured at the first batch, and again when what it depends on changes.

    Args:
        window_size: L.

    Attributes:
        windows: those of a batch.
    """

    def __init__(self, window_size: int) -> None:
        self.window_size = window_size
        self.windows: Windows | None = None
        self.graphed: GraphedStep | None = None
        self.key: Hashable = None

    def observe(self, targets: Tensor) -> None:
        """Takes which windows sleep from the first batch, while it is still on the CPU.

        Raises:
            ValueError: if a later batch has its loss in other windows.
        """
        found = Windows.of(targets, self.window_size)
        if self.windows is not None and self.windows.carry_loss != found.carry_loss:
            raise ValueError(
                "accelerate='graph' needs batches that carry loss in the same windows, got "
                f"{_places(found)} after {_places(self.windows)}; use 'compile' or 'none'"
            )
        self.windows = found

    def __call__(
        self,
        step: Step,
        optimizer: MuonAdamW,
        batch: Batch,
        grad_clip: float | None,
        guarded: bool,
        depends_on: Hashable,
    ) -> tuple[Tensor, ...]:
        """Takes a step, as `GraphedStep`; `depends_on` is what `step` depends on besides the batch and the parameters
        that train."""
        trained = tuple(p.requires_grad for group in optimizer.param_groups for p in group["params"])
        key = (tuple(None if x is None else x.shape for x in batch), trained, guarded, depends_on)
        if key != self.key:
            self.graphed = None  # its memory goes back before the next capture takes its own
            self.graphed, self.key = GraphedStep(step, optimizer, batch, grad_clip, guarded), key
        assert self.graphed is not None
        return self.graphed(batch)


def _in_order_of(p: Tensor, grad: Tensor | None) -> Tensor | None:
    """The gradient laid out as its parameter: fused optimizers read both in the order of memory."""
    return grad if grad is None or grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)


def _places(windows: Windows) -> list[int]:
    """Which windows carry loss."""
    return [i for i, loss in enumerate(windows.carry_loss) if loss]
