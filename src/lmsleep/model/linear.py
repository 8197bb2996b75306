"""Linear layers and the embedding of a training step, which uses them once in every pass over every window.

With `SharedWeights`, weights of layers with the same input are concatenated and cast once, so that they take one matrix
product, and their gradients are accumulated in float32 by the products that compute them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lmsleep.ops.compiler import disable

MAX_PRODUCT_ROWS = 128  # rows of the largest embedding whose gradient is a matrix product


def project(x: Tensor, *layers: nn.Module, shared: "SharedWeights | None" = None) -> tuple[Tensor, ...]:
    """The outputs (..., D_i) of linear layers of one input (..., D), as one product if their weights are shared."""
    if shared is None or not _can_share(layers):
        return tuple(layer(x) for layer in layers)
    return shared.products(x.to(product_dtype(x)), layers)


def project_concat(x: Tensor, *layers: nn.Module, shared: "SharedWeights | None" = None) -> Tensor:
    """The outputs of `project`, concatenated: (..., sum of D_i)."""
    if shared is None or not _can_share(layers):
        return torch.cat([layer(x) for layer in layers], dim=-1)
    return shared.product(x.to(product_dtype(x)), layers)


def lookup_embedding(table: nn.Embedding, tokens: Tensor, shared: "SharedWeights | None" = None) -> Tensor:
    """The embeddings (B, n, D) of tokens (B, n). Where weights are shared, the gradient of a small table is one matrix
    product: torch would sort the tokens, in a dozen launches."""
    if shared is not None and _is_plain(table) and table.num_embeddings <= MAX_PRODUCT_ROWS:
        return _LookupByProduct.apply(tokens, table.weight)  # pyright: ignore[reportReturnType]
    return table(tokens)


def _can_share(layers: tuple[nn.Module, ...]) -> TypeGuard[tuple[nn.Linear, ...]]:
    return all(_is_plain(layer) and layer.bias is None for layer in layers)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a linear layer reads x: that of autocast, which does not cast float64, or x's."""
    device = x.device.type
    narrow = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if narrow else x.dtype


@contextmanager
def autocast_without_cache(device: str) -> Iterator[None]:
    """Autocast as outside, without its cache: a cast made before the capture of a CUDA graph would be frozen in it."""
    torch.clear_autocast_cache()
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    with torch.autocast(device, dtype, enabled, cache_enabled=False):
        yield


def _is_plain(layer: nn.Module) -> bool:
    """Whether the layer is torch's own, with a dense weight and without hooks."""
    forward = layer._forward_hooks or layer._forward_pre_hooks
    hooked = forward or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) in (nn.Linear, nn.Embedding) and type(layer.weight) is nn.Parameter and not hooked


class SharedWeights:
    """Concatenated weights and their gradients, by layers. It serves one reading, whose backward may follow later; on a
    CPU, where no launch is saved, it is not worth it. Its products break compiled graphs: only the parts between them
    are compiled."""

    def __init__(self) -> None:
        self.joined: dict[tuple[Any, ...], tuple[Tensor, GradAccumulator]] = {}

    @disable
    def product(self, x: Tensor, layers: tuple[nn.Linear, ...]) -> Tensor:
        """(..., D) -> (..., sum of D_i)."""
        weights = [layer.weight for layer in layers]
        key = (x.dtype, torch.is_grad_enabled(), *map(id, weights))
        if key not in self.joined:
            total = GradAccumulator()
            self.joined[key] = _Join.apply(total, x.dtype, *weights), total  # pyright: ignore[reportArgumentType]
        return _Product.apply(x, *self.joined[key])  # pyright: ignore[reportReturnType]

    @disable
    def products(self, x: Tensor, layers: tuple[nn.Linear, ...]) -> tuple[Tensor, ...]:
        """As `product`, split by layer: (..., D_i)."""
        y = self.product(x, layers)
        return (y,) if len(layers) == 1 else _Split.apply(y, [layer.out_features for layer in layers])  # pyright: ignore


class GradAccumulator:
    """Accumulates the gradient of a concatenated weight, in float32 or wider."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None

    def add(self, dy: Tensor, x: Tensor) -> None:
        """dy (n, O), x (n, D): adds dy^T x."""
        if self.sum is None:
            self.sum = x.new_zeros(dy.shape[1], x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        total = self.sum
        if total.is_cuda and total.dtype != x.dtype:  # narrow operands, float32 output
            torch.ops.aten.addmm.dtype_out(total, dy.mT, x, total.dtype, out=total)
        else:
            total.addmm_(dy.mT.to(total.dtype), x.to(total.dtype))

    def take(self) -> Tensor | None:
        """Returns the sum and resets it."""
        total, self.sum = self.sum, None
        return total


class _Join(torch.autograd.Function):
    """Weights (O_i, D) -> (sum of O_i, D) in `dtype`. Its gradient arrives through `total`."""

    @staticmethod
    def forward(ctx: Any, total: GradAccumulator, dtype: torch.dtype, *weights: Tensor) -> Tensor:
        ctx.total, ctx.sizes, ctx.dtype = total, [len(w) for w in weights], weights[0].dtype
        ctx.set_materialize_grads(False)
        return torch.cat([w.detach() for w in weights]).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = ctx.total.take()
        if grad is None:
            return (None, None, *(None for _ in ctx.sizes))
        return (None, None, *grad.to(ctx.dtype).split(ctx.sizes))


class _Split(torch.autograd.Function):
    """y (..., D) -> parts (..., D_i). Gradients that are already adjacent in memory, as kernels leave them, are joined
    without a copy."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.stride = y.shape, y.stride()
        return y.split(sizes, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        starts = accumulate((g.shape[-1] for g in grads[:-1]), initial=grads[0].storage_offset())
        places = [(g.untyped_storage().data_ptr(), g.stride(), g.storage_offset()) for g in grads]
        if places == [(places[0][0], ctx.stride, start) for start in starts]:
            return grads[0].as_strided(ctx.shape, ctx.stride), None
        return torch.cat(grads, dim=-1), None


class _Product(torch.autograd.Function):
    """x (..., D), weight (O, D) -> x weight^T (..., O); the weight's gradient is added to `total`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, total: GradAccumulator) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.total = total
        return F.linear(x, weight)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy: Tensor
    ) -> tuple[Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        # needs_input_grad says that the weight trains; only the engine knows whether this backward wants its gradient.
        if ctx.needs_input_grad[1] and torch._C._will_engine_execute_node(ctx.next_functions[1][0]):
            ctx.total.add(dy.flatten(0, -2), x.flatten(0, -2))
        return (dy @ weight if ctx.needs_input_grad[0] else None), None, None


class _LookupByProduct(torch.autograd.Function):
    """tokens (B, n), weight (V, D) -> (B, n, D)."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.words, ctx.dtype = len(weight), weight.dtype
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (tokens,) = ctx.saved_tensors
        dy = dy.to(torch.promote_types(dy.dtype, torch.float32))
        words = torch.arange(ctx.words, device=dy.device)
        with torch.autocast(dy.device.type, enabled=False):
            grad = (tokens[..., None] == words).to(dy.dtype).mT @ dy  # (B, V, D): batched, to occupy a GPU
        return None, grad.sum(0).to(ctx.dtype)
