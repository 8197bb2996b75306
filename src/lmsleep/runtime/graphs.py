"""CUDA graphs of what a session does again and again: one launch in place of hundreds."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from threading import Lock

import torch
from torch import Tensor

from lmsleep.memory import AttentionCache, FastWeights, Left
from lmsleep.model import Blocks
from lmsleep.model.attention import Span
from lmsleep.model.linear import casting_anew, product_dtype


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`step`, which works on tensors that stay where they are; on CUDA as one graph, after three steps in which kernels
    compile and tune themselves."""
    if device.type != "cuda":
        return step
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), casting_anew(device.type):
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            step()
    return graph.replay


class GraphedRun:
    """`Blocks.run` for the passes of a sleep: values in, values out, and between them a graph for each form of values.

    Args:
        blocks: whose weights are read in place; they may change, but not move.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks, self.lock = blocks, Lock()
        self.graphs: dict[Hashable, tuple[list[Tensor], list[Tensor], Callable[[], None]]] = {}

    def __call__(
        self, first: int, last: int, h: Tensor, S: FastWeights, cache: AttentionCache, span: Span
    ) -> tuple[Tensor, FastWeights, tuple[Left, ...]]:
        """As `Blocks.run`, without a gradient and without what the blocks keep."""
        seen = span.visible, span.mask, span.near
        given = _tensors(h, S, cache, span)
        form = first, last, product_dtype(h), *(x is None for x in seen), *((x.shape, x.dtype) for x in given)
        with self.lock:
            if form not in self.graphs:
                self.graphs[form] = self._capture(first, last, h, S, cache, span)
            buffers, out, replay = self.graphs[form]
            for buffer, x in zip(buffers, given, strict=True):
                buffer.copy_(x)
            replay()
            h, *states = (x.clone() for x in out)
        return h, FastWeights(tuple(states)), ()

    def _capture(
        self, first: int, last: int, h: Tensor, S: FastWeights, cache: AttentionCache, span: Span
    ) -> tuple[list[Tensor], list[Tensor], Callable[[], None]]:
        """Buffers for the arguments, where the results will be, and what makes them."""
        cos, sin = span.rotary
        visible, mask, near = (x if x is None else x.clone() for x in (span.visible, span.mask, span.near))
        span = replace(span, rotary=(cos.clone(), sin.clone()), visible=visible, mask=mask, near=near)
        h, S, cache = h.clone(), FastWeights(tuple(map(torch.clone, S.states))), cache.map(torch.clone)
        out: list[Tensor] = []

        def step() -> None:
            after, S_after, _ = self.blocks.run(first, last, h, S, cache, span)
            out[:] = after, *S_after.states

        return _tensors(h, S, cache, span), out, captured(step, h.device)


def _tensors(h: Tensor, S: FastWeights, cache: AttentionCache, span: Span) -> list[Tensor]:
    """All tensors of the arguments of `Blocks.run`."""
    maybe = (span.visible, span.mask, span.near)
    layers = (x for left in cache.layers for x in left or ())
    return [h, *S.states, *layers, *span.rotary, *(x for x in maybe if x is not None)]
