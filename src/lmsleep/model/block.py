"""The block, a mixer and an MLP on the residual stream; the interface of a mixer and the context that it reads in."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from lmsleep.memory import LayerCache
from lmsleep.model.layers import RMSNorm, SwiGLU
from lmsleep.model.linear import SharedWeights


@dataclass(frozen=True)
class PassContext:
    """Positions, visibility and options of the n tokens of a pass, the same for every mixer.

    Args:
        rotary: cos and sin (n, head_dim / 2) of their positions.
        visible: (B or 1, 1, n, m + n) bool over the m cached and the n own tokens; None: causal.
        mask: (B, n) bool, False for masked tokens, which change neither S nor what other tokens see; None: no mask.
        visible_sliding: as `visible`, for sliding attention.
        cache_slot: (1,) slot of a static cache that a single token overwrites; None: the cache grows.
        use_cache: whether mixers return their cache entries.
        need_h: whether the pass returns h; without it the blocks stop at the last fast weights, before the MLP.
        shared: weights that all passes of a reading use, for `project`; None: every layer computes by itself.
    """

    rotary: tuple[Tensor, Tensor]
    visible: Tensor | None = None
    mask: Tensor | None = None
    visible_sliding: Tensor | None = None
    cache_slot: Tensor | None = None
    use_cache: bool = True
    need_h: bool = True
    shared: SharedWeights | None = None


class Mixer(Protocol):
    """The interface of a mixer, a `torch.nn.Module`.

    Called with x (B, n, D), fast weights (B, *state_shape) or None, its cache entry of earlier tokens of the window
    (`cache`: a `ConvTail`, a `KV` or None) and a `PassContext`, it returns y (B, n, D), the new fast weights and the
    new cache entry (which may be None unless `ctx.use_cache`), and changes none of its inputs. Reading tokens in groups
    must equal reading them at once, and a token with `ctx.mask` False must change neither state nor cache.

    `state_shape` is that of one row's fast weights, None if there are none. `flops_per_token` leaves out the weights of
    linear layers, which the block counts.
    """

    @property
    def state_shape(self) -> tuple[int, ...] | None: ...

    def __call__(
        self, x: Tensor, state: Tensor | None, cache: Any, ctx: PassContext
    ) -> tuple[Tensor, Tensor | None, LayerCache]: ...

    def flops_per_token(self, window_size: int) -> int: ...


def check_left(mixer: Mixer, left: Any, state: Tensor | None, where: str = "") -> None:
    """Raises ValueError, with the mixer's class and `where` it was, unless it left y, a state of the kind of that
    before, and a cache entry."""
    name, parts = type(mixer).__name__, left if isinstance(left, tuple) else (left,)
    if len(parts) != 3:
        got = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(f"{name} must return y, the new state and the new cache entry, got {got}")
    _, after, entry = parts
    if state is not None:
        check_kind(f"the new state of {name}{where}", after, state)
    elif after is not None:
        raise ValueError(f"the new state of {name}, which has no state_shape, must be None, got {type(after).__name__}")
    if not isinstance(entry, LayerCache):
        raise ValueError(f"the cache entry of {name} must be a ConvTail, a KV or None, got {type(entry).__name__}")


def check_kind(name: str, got: Any, like: Tensor) -> None:
    """Raises ValueError unless `got` is a tensor of the shape and dtype of `like`."""
    if not isinstance(got, Tensor) or (got.shape, got.dtype) != (like.shape, like.dtype):
        is_ = f"{got.dtype} of shape {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise ValueError(f"{name} must be {like.dtype} of shape {tuple(like.shape)}, got {is_}")


class LazySum(NamedTuple):
    """h + y (B, n, D) between two blocks, added by the next norm in one fused kernel."""

    h: Tensor
    y: Tensor | None = None


class Block(nn.Module):
    """A pre-norm residual block.

        h --+-- mixer_norm -- mixer -- mixer_post_norm --(+)--+-- mlp_norm -- mlp -- mlp_post_norm --(+)-- h
            |                                             |   |                                       |
            +---------------------------------------------+   +---------------------------------------+

    Post norms exist only with `sandwich`. A block without MLP, as inserted into a pretrained model, ends at the first
    (+) and has no post norm, which would blow up the first step away from an output projection of zero.

    Args:
        mlp_hidden: hidden width of the MLP; None: no MLP.
    """

    def __init__(self, mixer: Mixer, d_model: int, mlp_hidden: int | None, norm_eps: float, sandwich: bool) -> None:
        super().__init__()
        norm = partial(RMSNorm, d_model, norm_eps)
        self.mixer_norm, self.mixer = norm(), mixer
        self.mlp_norm, self.mlp = (norm(), SwiGLU(d_model, mlp_hidden)) if mlp_hidden else (None, None)
        post_norm = norm if sandwich and mlp_hidden else nn.Identity
        self.mixer_post_norm, self.mlp_post_norm = post_norm(), post_norm()

    def forward(
        self, h: Tensor | LazySum, state: Tensor | None, cache: LayerCache, ctx: PassContext
    ) -> tuple[Tensor | LazySum, Tensor | None, LayerCache]:
        """h (B, n, D), the mixer's fast weights and cache entry -> the same three after n tokens. A `LazySum` gives a
        `LazySum`."""
        s, x = self.mixer_norm.add_and_norm(*(h if isinstance(h, LazySum) else LazySum(h)))
        left = self.mixer(x, state, cache, ctx)
        check_left(self.mixer, left, state)
        y, state, cache = left
        y = self.mixer_post_norm(y)
        if ctx.need_h and self.mlp is not None and self.mlp_norm is not None:
            s, x = self.mlp_norm.add_and_norm(s, y)
            y = self.mlp_post_norm(self.mlp(x, ctx.shared))
        return LazySum(s, y) if isinstance(h, LazySum) else s + y, state, cache

    def flops_per_token(self, window_size: int) -> int:
        """Matrix products of one token: all projections, and the mixer's own."""
        projections = sum(2 * m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        return projections + self.mixer.flops_per_token(window_size)
