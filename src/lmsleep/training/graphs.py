"""Faster training steps: compiled blocks, CUDA graphs of forward and backward, which save the launches of kernels, and
results that the host need not wait for."""

import gc
import hashlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from lmsleep import ops
from lmsleep.checks import require
from lmsleep.model import HybridLM
from lmsleep.model.linear import autocast_without_cache
from lmsleep.tasks import Batch
from lmsleep.training.callbacks import sleep_settings
from lmsleep.windows import Windows

Accelerate = Literal["none", "compile", "graph", "compile+graph"]
StepFunction = Callable[[Batch], tuple[Tensor, ...]]


def check_accelerate(accelerate: Accelerate, device: torch.device) -> None:
    """Raises ValueError if the mode needs another device."""
    if "graph" in accelerate and device.type != "cuda":
        raise ValueError(f"accelerate={accelerate!r} needs a CUDA device, got {device.type}; use 'compile' or 'none'")


def check_graph_trainer(trainer: L.Trainer) -> None:
    """Raises ValueError for accumulated gradients (the next backward overwrites those of a graph), sharded models
    (their weights move) and an `on_overflow` (a replay does not call it)."""
    policy = sleep_settings(trainer).on_overflow
    require(policy is None, "sleep.on_overflow must be left out with accelerate='graph'", policy)
    batches = trainer.accumulate_grad_batches
    require(batches == 1, "trainer.accumulate_grad_batches must be 1 with accelerate='graph'", batches)
    if isinstance(trainer.strategy, ModelParallelStrategy):
        raise ValueError("trainer.strategy must be ddp or a single device with accelerate='graph', got a sharded model")


def compile_blocks(model: HybridLM) -> None:
    """Compiles every block in place: a variant for each kind of block, window length, and with or without gradients."""
    # torch keeps what it compiled on disk and does not see it when the shapes that our custom ops return have changed.
    torch.compiler.config.cache_key_tag = f"lmsleep {source_digest(Path(ops.__file__).parent)}"
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in model.blocks.layers:
        block.compile(dynamic=False)


def source_digest(folder: Path) -> str:
    """A hash of the Python files of a folder."""
    files = sorted(folder.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


class HostCopy:
    """A copy of a small tensor on the host, for which nothing waits until its value is read."""

    def __init__(self, x: Tensor) -> None:
        self._copy, self._event = x, None
        if x.is_cuda:
            self._copy = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    @property
    def arrived(self) -> bool:
        """Whether the value can be read at once."""
        return self._event is None or self._event.query()

    @property
    def value(self) -> Tensor:
        """The copy; waits until it has arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy


class StepGraphs:
    """Forward and backward of a training batch as CUDA graphs, captured at the first batch and whenever their inputs'
    shapes or `depends_on` change. Clipping and update are not part of them.

    Args:
        model: whose parameters train.

    Attributes:
        windows: those of a batch.
    """

    def __init__(self, model: HybridLM) -> None:
        self.model = model
        self.parameters = list(model.parameters())  # once: a walk over modules takes longer than a replay's launch
        self.windows: Windows | None = None
        self.graphed: Callable[..., tuple[Tensor, ...]] | None = None
        self.key: Hashable = None

    def observe(self, targets: Tensor, after_loss: bool = False) -> None:
        """Finds the windows with loss from targets (B, T) that are still on the CPU. Raises ValueError if they are not
        those of the batches before."""
        windows = Windows.of(targets, self.model.window_size, after_loss)
        if self.windows is not None and self.windows.carry_loss != windows.carry_loss:
            new, old = ([i for i, loss in enumerate(w.carry_loss) if loss] for w in (windows, self.windows))
            needs = "accelerate='graph' needs batches that carry loss in the same windows"
            raise ValueError(f"{needs}, got {new} after {old}; use 'compile' or 'none'")
        self.windows = windows

    def __call__(self, step: StepFunction, batch: Batch, depends_on: Hashable) -> tuple[Tensor, ...]:
        """The result of `step` for the batch.

        Args:
            step: batch -> loss and other tensors. It must not wait for the device, nor branch on values of a batch.
            depends_on: what `step` depends on besides the batch and the parameters that train.
        """
        trained = tuple(p.requires_grad for p in self.parameters)
        key = (tuple(None if x is None else x.shape for x in batch), trained, depends_on)
        if key != self.key:
            self.graphed = None  # frees its memory before the next capture
            gc.collect()  # a graph of another step that is freed during a capture ends it
            # The captured backward stays alive, and with it its stream for each parameter; autograd waits for that.
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
            with autocast_without_cache(batch.tokens.device.type):
                module = _StepModule(self.model, step, batch)
                example = tuple(x.clone() for x in _tensors(batch))
                graphed: Any = torch.cuda.make_graphed_callables(module, example, allow_unused_input=True)
            self.graphed, self.key = graphed, key
        assert self.graphed is not None
        # The next replay overwrites the outputs of the graph.
        return tuple(x.clone() for x in self.graphed(*_tensors(batch)))


class _StepModule(nn.Module):
    """A step as a module with the parameters of the model, whose arguments are the tensors of a batch."""

    def __init__(self, model: HybridLM, step: StepFunction, example: Batch) -> None:
        super().__init__()
        self.model, self.step, self.example = model, step, example

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = iter(tensors)
        return self.step(Batch(*(None if x is None else next(inputs) for x in self.example)))  # pyright: ignore


def _tensors(batch: Batch) -> list[Tensor]:
    return [x for x in batch if x is not None]
