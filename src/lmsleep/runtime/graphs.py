"""CUDA graphs for the repeated work of a session."""

import gc
from collections.abc import Callable, Hashable
from dataclasses import replace
from threading import Lock

import torch
from torch import Tensor

from lmsleep.memory import AttentionCache, FastWeights, LayerCache
from lmsleep.model import Blocks, PassContext
from lmsleep.model.linear import autocast_without_cache, product_dtype


def capture(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`step`, which works on static tensors; on CUDA as a graph, captured after three warm-up steps."""
    if device.type != "cuda":
        return step
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), autocast_without_cache(device.type):
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        gc.collect()  # a graph that is freed during the capture of another ends it
        with torch.cuda.graph(graph):
            step()
    return graph.replay


class GraphedBlocks:
    """`Blocks.run` for the passes of a sleep, with a graph for each combination of shapes and options.

    Args:
        blocks: whose weights may change in place, but not be replaced.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks, self.lock = blocks, Lock()
        self.graphs: dict[Hashable, tuple[list[Tensor], list[Tensor], Callable[[], None]]] = {}

    def __call__(
        self, first: int, last: int, h: Tensor, S: FastWeights, cache: AttentionCache, ctx: PassContext
    ) -> tuple[Tensor, FastWeights, tuple[LayerCache, ...]]:
        """As `Blocks.run`, without gradient and cache entries."""
        inputs, masks = _tensors(h, S, cache, ctx), (ctx.visible, ctx.mask, ctx.visible_sliding)
        key = first, last, product_dtype(h), *(x is None for x in masks), *((x.shape, x.dtype) for x in inputs)
        with self.lock:
            if key not in self.graphs:
                self.graphs[key] = self._capture(first, last, h, S, cache, ctx)
            buffers, out, replay = self.graphs[key]
            for buffer, x in zip(buffers, inputs, strict=True):
                buffer.copy_(x)
            replay()
            h, *states = (x.clone() for x in out)  # before another thread's replay
        return h, FastWeights(tuple(states)), ()

    def _capture(
        self, first: int, last: int, h: Tensor, S: FastWeights, cache: AttentionCache, ctx: PassContext
    ) -> tuple[list[Tensor], list[Tensor], Callable[[], None]]:
        """Buffers for the arguments, the list of results, and the function that computes them."""
        rotary = ctx.rotary[0].clone(), ctx.rotary[1].clone()
        visible, mask, sliding = (x if x is None else x.clone() for x in (ctx.visible, ctx.mask, ctx.visible_sliding))
        ctx = replace(ctx, rotary=rotary, visible=visible, mask=mask, visible_sliding=sliding)
        h, S, cache = h.clone(), FastWeights(tuple(map(torch.clone, S.states))), cache.map(torch.clone)
        out: list[Tensor] = []

        def step() -> None:
            after, S_after, _ = self.blocks.run(first, last, h, S, cache, ctx)
            out[:] = after, *S_after.states

        return _tensors(h, S, cache, ctx), out, capture(step, h.device)


def _tensors(h: Tensor, S: FastWeights, cache: AttentionCache, ctx: PassContext) -> list[Tensor]:
    """All tensors of the arguments of `Blocks.run`."""
    layers = (x for entry in cache.layers for x in entry or ())
    masks = (x for x in (ctx.visible, ctx.mask, ctx.visible_sliding) if x is not None)
    return [h, *S.states, *layers, *ctx.rotary, *masks]
