"""Linear layers, and the embedding, in a step that uses them many times, once in every pass over every window.

Within `sharing_weights` the weights of the layers that read one input are joined and cast once, so that they are one
product, and their gradients are summed in float32 by the products that make them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SHARED: ContextVar["Shared | None"] = ContextVar("shared", default=None)
FEW_WORDS = 128  # the gradient of a table of so many rows is a product
_open = False  # whether anything is shared: compiled code can ask this, and not a context variable


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """The outputs (..., D_i) of linear layers of one input (..., D), as one product within `sharing_weights`."""
    if not _sharing(layers):
        return tuple(layer(x) for layer in layers)
    return _split_product(_narrow(x), layers)  # pyright: ignore[reportCallIssue]


def project_side_by_side(x: Tensor, *layers: nn.Module) -> Tensor:
    """What `project` gives, in one tensor (..., sum of D_i)."""
    if not _sharing(layers):
        return torch.cat([layer(x) for layer in layers], dim=-1)
    return _one_product(_narrow(x), layers)  # pyright: ignore[reportCallIssue]


def look_up(table: nn.Embedding, tokens: Tensor) -> Tensor:
    """The rows (B, n, D) of `table` at tokens (B, n). Within `sharing_weights` the gradient of a small table is made
    by a product: torch sorts the tokens for it, in a dozen launches."""
    if _open and table.num_embeddings <= FEW_WORDS and _plain(table):
        return _Rows.apply(tokens, table.weight)  # pyright: ignore[reportReturnType]
    return table(tokens)


def _sharing(layers: tuple[nn.Module, ...]) -> bool:
    """Whether the weights of these layers are shared here."""
    return _open and all(_plain(layer) and layer.bias is None for layer in layers)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a linear layer takes x: that of autocast, which leaves float64 alone, or x's."""
    device = x.device.type
    narrow = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if narrow else x.dtype


@contextmanager
def casting_anew(device: str) -> Iterator[None]:
    """Autocast as it is here, but for casts that are kept: one made outside of a CUDA graph would stay as it is now."""
    torch.clear_autocast_cache()
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    with torch.autocast(device, dtype, enabled, cache_enabled=False):
        yield


def _narrow(x: Tensor) -> Tensor:
    return x.to(product_dtype(x))


def _plain(layer: nn.Module) -> bool:
    """Whether the layer is torch's own with a dense weight, for which nobody has put in something else."""
    forward = layer._forward_hooks or layer._forward_pre_hooks
    hooked = forward or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) in (nn.Linear, nn.Embedding) and type(layer.weight) is nn.Parameter and not hooked


# A break in compiled graphs: what is compiled are the parts between products.
@torch.compiler.disable
def _one_product(x: Tensor, layers: tuple[nn.Linear, ...]) -> Tensor:
    shared = _SHARED.get()
    assert shared is not None
    return shared.product(x, layers)


@torch.compiler.disable
def _split_product(x: Tensor, layers: tuple[nn.Linear, ...]) -> tuple[Tensor, ...]:
    """The same in its parts."""
    y = _one_product(x, layers)  # pyright: ignore[reportCallIssue]
    return (y,) if len(layers) == 1 else _Split.apply(y, [layer.out_features for layer in layers])  # pyright: ignore


@contextmanager
def sharing_weights(enabled: bool = True) -> Iterator[None]:
    """Within, `project` shares weights; back-propagation may follow outside. Joining costs more than it gives on a CPU,
    where no launch is saved."""
    with sharing(Shared() if enabled else None):
        yield


@contextmanager
def sharing(shared: "Shared | None") -> Iterator[None]:
    """Goes on with what `shared_weights` gave elsewhere: passes computed anew in the backward must share the same."""
    global _open
    before, _open = _open, shared is not None
    token = _SHARED.set(shared)
    try:
        yield
    finally:
        _SHARED.reset(token)
        _open = before


def shared_weights() -> "Shared | None":
    """What `project` shares here; None outside of `sharing_weights`."""
    return _SHARED.get()


class Shared:
    """Joined weights by the layers they belong to."""

    def __init__(self) -> None:
        self.joined: dict[tuple[Any, ...], tuple[Tensor, Total]] = {}

    def product(self, x: Tensor, layers: tuple[nn.Linear, ...]) -> Tensor:
        """(..., D) -> (..., sum of D_i)."""
        weights = [layer.weight for layer in layers]
        key = (x.dtype, torch.is_grad_enabled(), *map(id, weights))
        if key not in self.joined:
            total = Total()
            self.joined[key] = _Join.apply(total, x.dtype, *weights), total  # pyright: ignore[reportArgumentType]
        return _Product.apply(x, *self.joined[key])  # pyright: ignore[reportReturnType]


class Total:
    """The sum of the gradients of a joined weight so far, float32 or wider."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None

    def add(self, dy: Tensor, x: Tensor) -> None:
        """dy (n, O), x (n, D): adds dy^T x."""
        if self.sum is None:
            self.sum = x.new_zeros(dy.shape[1], x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        _add_product(self.sum, dy.mT, x)

    def take(self) -> Tensor | None:
        """The sum; the next one starts at zero."""
        found, self.sum = self.sum, None
        return found


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, summed in total's dtype whatever that of a and b."""
    if total.is_cuda and total.dtype != b.dtype:  # narrow operands, and a product that leaves as float32
        torch.ops.aten.addmm.dtype_out(total, a, b, total.dtype, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


class _Join(torch.autograd.Function):
    """Weights (O_i, D) -> (sum of O_i, D) in the dtype of products. Its gradient comes by way of `total`."""

    @staticmethod
    def forward(ctx: Any, total: Total, dtype: torch.dtype, *weights: Tensor) -> Tensor:
        ctx.total, ctx.sizes, ctx.dtype = total, [len(w) for w in weights], weights[0].dtype
        ctx.set_materialize_grads(False)
        return torch.cat([w.detach() for w in weights]).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = ctx.total.take()
        if found is None:
            return (None, None, *(None for _ in ctx.sizes))
        return (None, None, *found.to(ctx.dtype).split(ctx.sizes))


class _Split(torch.autograd.Function):
    """y (..., D) -> its parts (..., D_i). Gradients that lie side by side already, as kernels leave them, are one
    tensor again without a copy."""

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
    def forward(ctx: Any, x: Tensor, weight: Tensor, total: Total) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.total = total
        return F.linear(x, weight)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, dy: Tensor
    ) -> tuple[Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        # The flag says that the weight trains; whether this backward asks for its gradient, only the engine knows.
        if ctx.needs_input_grad[1] and torch._C._will_engine_execute_node(ctx.next_functions[1][0]):
            ctx.total.add(dy.flatten(0, -2), x.flatten(0, -2))
        return (dy @ weight if ctx.needs_input_grad[0] else None), None, None


class _Rows(torch.autograd.Function):
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
            found = (tokens[..., None] == words).to(dy.dtype).mT @ dy  # (B, V, D): one long product would fill no card
        return None, found.sum(0).to(ctx.dtype)
