"""One block and the stack of blocks: a pass over a window."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmsleep.memory import AttentionCache, FastWeights
from lmsleep.model.attention import Attention, Rotary, Span
from lmsleep.model.config import MIXERS, HybridConfig
from lmsleep.model.fast_weights import GatedDelta, Jet, Mamba2
from lmsleep.model.linear import shared_weights, sharing
from lmsleep.model.mlp import SwiGLU
from lmsleep.model.norm import RMSNorm
from lmsleep.ops.window_attention.sdpa import visibility

Left = tuple[Tensor, ...]


class Mixer(Protocol):
    """What a block asks of its mixer, a `torch.nn.Module`.

    Called with x (B, n, D), the fast weights (B, *state_shape) that the tokens before left (None without fast weights),
    what it asked to keep of those tokens in the same window (`left`, empty before the first) and where the tokens stand
    (`span`), it returns y (B, n, D), the new fast weights and the new `left`, and changes none of its inputs. Unless
    `span.keep`, nobody will ask for the new `left`, and it may be empty.
    Reading tokens in groups must equal reading them in one go, and a token with `span.mask` False must leave no trace.
    Entries of `left` have one shape throughout and three axes, rows first.

    `state_shape` is that of one row's fast weights, None if there are none. `flops_per_token` leaves out the weights of
    linear layers, which the block counts.
    """

    @property
    def state_shape(self) -> tuple[int, ...] | None: ...

    def __call__(
        self, x: Tensor, state: Tensor | None, left: Left, span: Span
    ) -> tuple[Tensor, Tensor | None, Left]: ...

    def flops_per_token(self, window_size: int) -> int: ...


MIXER_CLASSES: dict[str, Callable[[HybridConfig], Mixer]] = {
    "A": Attention,
    "W": lambda config: Attention(config, config.sliding_window),
    "G": GatedDelta,
    "M": Mamba2.from_config,
    "J": Jet,
}
BUILT_IN = frozenset(MIXER_CLASSES)


def register_mixer(letter: str, name: str, factory: Callable[[HybridConfig], Mixer]) -> None:
    """Lets `letter` in a pattern stand for a mixer of one's own; a second call with the same letter replaces the first.

    Output projections called `o_proj` or `out_proj` start at zero under `zero_init`, as those of the built-in mixers.
    Muon trains the weights of its `nn.Linear` modules and of their subclasses, AdamW all its other parameters.

    Args:
        letter: an upper-case letter, A to Z; its lower case is a block without MLP.
        name: what messages call the mixer.
        factory: makes it, such as its class.

    Raises:
        ValueError: if the letter is not one upper-case letter, or belongs to a built-in mixer.
    """
    if not (len(letter) == 1 and "A" <= letter <= "Z"):
        raise ValueError(f"letter must be one upper-case letter, got {letter!r}")
    if letter in BUILT_IN:
        raise ValueError(f"letter must not be one of the built-in {', '.join(sorted(BUILT_IN))}, got {letter!r}")
    MIXERS[letter], MIXER_CLASSES[letter] = name, factory


class Block(nn.Module):
    """h + mixer(norm(h)), then h + mlp(norm(h)); with sandwich norms also norm(mixer(...)) and norm(mlp(...)).

    A block without MLP, as is inserted between those of a pretrained model, has no sandwich norm: that would blow up
    the first step away from an output projection of zero.
    """

    def __init__(self, config: HybridConfig, letter: str, has_mlp: bool) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(config.d_model, config.norm_eps)

        self.mixer_norm, self.mixer = norm(), MIXER_CLASSES[letter](config)
        self.mlp_norm, self.mlp = (norm(), SwiGLU(config.d_model, config.mlp_hidden)) if has_mlp else (None, None)
        sandwich = config.sandwich_norm and has_mlp
        self.mixer_post_norm = norm() if sandwich else nn.Identity()
        self.mlp_post_norm = norm() if sandwich else nn.Identity()

    def forward(self, h: Tensor, state: Tensor | None, left: Left, span: Span) -> tuple[Tensor, Tensor | None, Left]:
        """h (B, n, D), the mixer's fast weights (None for attention), left context -> the same three after n tokens."""
        y, state, left = self.mixer(self.mixer_norm(h), state, left, span)
        h = h + self.mixer_post_norm(y)
        if self.mlp is not None and self.mlp_norm is not None:
            h = h + self.mlp_post_norm(self.mlp(self.mlp_norm(h)))
        return h, state, left

    def flops_per_token(self, window_size: int) -> int:
        """Matrix products of one token: every projection, and what the mixer does along the sequence."""
        projections = sum(2 * m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        return projections + self.mixer.flops_per_token(window_size)


class Blocks(nn.Module):
    """The stack. `blocks(h, S)` is one pass over one window; nothing is mutated.

    Args:
        checkpointing: recompute a pass in the backward instead of keeping its activations; same gradients, less memory.
    """

    def __init__(self, config: HybridConfig, norm: nn.Module) -> None:
        super().__init__()
        self.config = config
        layers = nn.ModuleList(Block(config, *layer) for layer in config.layers())
        self.layers: Sequence[Block] = layers  # pyright: ignore[reportAttributeAccessIssue]
        self.rotary = Rotary(config.attention_head_dim, config.rope_theta, config.window_size or 1)
        self.pass_norm = norm
        fast = [i for i, layer in enumerate(self.layers) if layer.mixer.state_shape is not None]
        self.state_index = {block: index for index, block in enumerate(fast)}
        self.checkpointing = False

    @property
    def state_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of one row's fast weights, a fast-weight layer each."""
        return [self.layers[i].mixer.state_shape for i in self.state_index]  # pyright: ignore[reportReturnType]

    def forward(
        self, h: Tensor, S: FastWeights, cache: AttentionCache | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, FastWeights]:
        """One pass over the n <= L tokens of a window: (B, n, D), S -> (B, n, D), S.

        Args:
            cache: the tokens before them that attention still sees; None: none.
            mask: (B, n) bool, False for tokens that must leave no trace.
        """
        h, S, _ = self.run(0, self.config.depth, h, S, self.empty_cache() if cache is None else cache, mask, keep=False)
        return h, S

    def run(
        self,
        first: int,
        last: int,
        h: Tensor,
        S: FastWeights,
        cache: AttentionCache,
        mask: Tensor | None = None,
        span: Span | None = None,
        keep: bool = True,
    ) -> tuple[Tensor, FastWeights, tuple[Left, ...]]:
        """Blocks first .. last - 1, and the norm that closes a pass if it ends the stack. Returns h, S and what each of
        these blocks must remember of the tokens, of no use unless `keep`. `span`, if given, says where the tokens stand
        in place of `cache`, `mask` and `keep`."""
        span = span or self.span(h, cache, mask, keep)
        if self.checkpointing and torch.is_grad_enabled():
            shared = shared_weights()

            def run(*args: Any) -> tuple[Tensor, FastWeights, tuple[Left, ...]]:
                with sharing(shared):
                    return self._run(*args)

            return checkpoint(run, first, last, h, S, cache, span, use_reentrant=False)  # pyright: ignore
        return self._run(first, last, h, S, cache, span)

    def _run(
        self, first: int, last: int, h: Tensor, S: FastWeights, cache: AttentionCache, span: Span
    ) -> tuple[Tensor, FastWeights, tuple[Left, ...]]:
        changed: dict[int, Tensor] = {}
        remembered: list[Left] = []
        for i in range(first, last):
            index = self.state_index.get(i)
            h, state, left = self.layers[i](h, None if index is None else S[index], cache.layer(i), span)
            remembered.append(left)
            if index is not None:
                changed[index] = state
        if last == self.config.depth:
            h = self.pass_norm(h)
        return h, S.with_layers(changed), tuple(remembered)

    def span(self, h: Tensor, cache: AttentionCache, mask: Tensor | None, keep: bool = True) -> Span:
        """Where the n tokens of h stand behind the cached ones.

        Raises:
            ValueError: if nothing was kept of the cached ones.
        """
        n, cached = h.shape[1], cache.held
        if cached and not cache.layers:
            raise ValueError(f"cache must hold what the {cached} tokens before left: they were read with keep=False")
        everyone = joined_mask(mask, cache, h)
        visible = visibility(n, cached, cache.capacity, everyone, h.device)
        reach = self.config.sliding_window
        near = visible
        if reach is not None and reach < cache.capacity:
            near = visibility(n, cached, reach, everyone, h.device)
        return Span(self.rotary(cache.position, n, h), visible, mask, near, keep=keep)

    def empty_cache(self) -> AttentionCache:
        """The cache before the first token."""
        return AttentionCache(self.config.window_size or 1)


def joined_mask(mask: Tensor | None, cache: AttentionCache, h: Tensor) -> Tensor | None:
    """The mask (B, m + n) over cached and new tokens; None if all count."""
    if mask is None and cache.mask is None:
        return None
    past = (
        cache.mask if cache.mask is not None else torch.ones(h.shape[0], cache.held, dtype=torch.bool, device=h.device)
    )
    own = mask if mask is not None else torch.ones(h.shape[:2], dtype=torch.bool, device=h.device)
    return torch.cat([past, own], dim=1)
