"""What a mixer must keep to: `check_mixer` holds a fast-weight rule, or an attention, to the contract of
`lmsleep.model.Mixer`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lmsleep.checks import checked, require, typed
from lmsleep.memory import KV
from lmsleep.model.attention import Rotary
from lmsleep.model.block import Mixer, PassContext, check_kind, check_left
from lmsleep.model.config import ModelConfig
from lmsleep.ops.window_attention.sdpa import visibility

Config = TypeVar("Config", bound=ModelConfig)
TOKENS = 24
EVERYTHING = PassContext((torch.empty(0), torch.empty(0)))  # a rule sees no positions


def check_parts(mixer: Any, name: str) -> None:
    """Raises ValueError if a mixer, which is called `name` in the message, lacks a part of the interface."""
    require(isinstance(mixer, nn.Module), f"{name} must be a torch.nn.Module", type(mixer).__name__)
    shape = getattr(mixer, "state_shape", "none")
    sizes = shape is None or (isinstance(shape, tuple) and all(isinstance(size, int) for size in shape))
    require(sizes, f"state_shape of {name} must be one tuple of integers (parts are joined), or None", shape)
    promise = f"{name} must have flops_per_token(window_size)"
    require(callable(getattr(mixer, "flops_per_token", None)), promise, type(mixer).__name__)


@checked
def check_mixer(make: Callable[[Config], Mixer], config: Config, tolerance: float = 1e-9) -> None:
    """Holds a fast-weight rule, or a mixer without fast weights (an attention), to its contract, on random tokens and
    weights in float64, in evaluation mode; compare it with its definition beside this.

    Args:
        make: as for `register_mixer`.
        config: a `HybridConfig` with the sizes; small ones are quick.
        tolerance: by which values may differ, relative and absolute.

    Raises:
        ValueError: that says which part of the contract is broken: shapes and dtypes, also under autocast; inputs as
            they were; no row knows another, and no token a later one; any split of the tokens gives the same; a masked
            token leaves no trace; a gradient reaches S; `flops_per_token` is an integer. Of an attention: a token sees
            what `ctx.visible` says and no other, and writes into `ctx.cache_slot` where there is one.
    """
    config = typed(ModelConfig, config, "config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mixer: Any = make(config)
        check_parts(mixer, "the rule")
        mixer.eval()  # dropout draws: two readings of the same would differ
        x, S = torch.randn(2, TOKENS, config.d_model), torch.randn(2, *(mixer.state_shape or ()))
        if mixer.state_shape is not None:
            with torch.autocast("cpu", torch.bfloat16):
                check_left(mixer, mixer(x, S, None, EVERYTHING), S, " under autocast")
        with torch.no_grad():  # away from the initial values, of which many are equal
            for weight in mixer.double().parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        x, S = x.double(), S.double()
        flops = mixer.flops_per_token(config.window_size or TOKENS)
        require(type(flops) is int and flops >= 0, "flops_per_token must give an integer of 0 or more", flops)
        if mixer.state_shape is None:
            rotary = Rotary(config.attention_head_dim, config.rope_theta, 1, config.rotary_dim, config.rope_scaling)
            _Attention(mixer, tolerance, rotary).check(x, S)
        else:
            _Rule(mixer, tolerance).check(x, S)


class _Contract(ABC):
    """A mixer in float64, how closely what it reads must agree, and what holds with fast weights and without."""

    def __init__(self, mixer: Any, tolerance: float) -> None:
        self.mixer, self.tolerance = mixer, tolerance

    def equal(self, promise: str, got: Tensor, want: Tensor) -> None:
        """Raises ValueError, which begins with `promise`, if two tensors differ."""
        apart = (got - want).detach().abs().max().item()
        if not torch.allclose(got, want, self.tolerance, self.tolerance):
            raise ValueError(f"{promise}, got a difference of {apart:.2g}")

    @abstractmethod
    def read(self, x: Tensor, S: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """y of tokens x, read in groups of these sizes from the state S on, and the state then; None if there is
        none."""

    def check(self, x: Tensor, S: Tensor) -> None:
        """The inputs stay as they were; no row knows another, and no token a later one; groups are as good as all."""
        before = x.clone(), S.clone()
        y, end = self.read(x, S, [TOKENS])
        require(all(map(torch.equal, (x, S), before)), "the mixer must leave its inputs as they were", "changed ones")
        for one in (slice(row, row + 1) for row in range(len(x))):
            alone, left = self.read(x[one], S[one], [TOKENS])
            self.equal("y of a row must not depend on other rows", y[one], alone)
            if end is not None and left is not None:
                self.equal("the new state of a row must not depend on other rows", end[one], left)
        other = torch.cat([x[:, :-1], -x[:, -1:]], dim=1)
        self.equal("y of a token must not depend on later ones", self.read(other, S, [TOKENS])[0][:, :-1], y[:, :-1])
        for sizes in ([1] * TOKENS, [1, TOKENS - 1], [7, TOKENS - 7], [TOKENS - 1, 1]):
            parts, left = self.read(x, S, sizes)
            groups = ", ".join(map(str, dict.fromkeys(sizes)))
            promise = f"reading {groups} tokens in turn must equal reading all at once"
            self.equal(promise, parts, y)
            if end is not None and left is not None:
                self.equal(f"{promise} in the new state", left, end)


class _Rule(_Contract):
    """A mixer with fast weights."""

    def read(self, x: Tensor, S: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        state, cache, parts = S, None, []
        for part in x.split(list(sizes), dim=1):
            left = self.mixer(part, state, cache, EVERYTHING)
            check_left(self.mixer, left, S)
            y, state, cache = left
            check_kind("y", y, part)
            parts.append(y)
        return torch.cat(parts, dim=1), state

    def check(self, x: Tensor, S: Tensor) -> None:
        try:
            self.mixer(x, S, None, EVERYTHING)
        except RuntimeError as error:  # in float32 it went
            rule = "the rule must compute in state.dtype, which is float64 here"
            raise ValueError(f"{rule}, got {' '.join(str(error).split())!r:.99}") from error
        super().check(x, S)
        self.check_mask(x, S)
        self.check_gradient(x, S)

    def check_mask(self, x: Tensor, S: Tensor) -> None:
        """What is masked, before the other tokens or after them, might as well not be there."""
        for seen in (slice(5, None), slice(0, TOKENS - 5)):
            mask = torch.zeros(x.shape[:2], dtype=torch.bool)
            mask[:, seen] = True
            y, after, _ = self.mixer(x, S, None, replace(EVERYTHING, mask=mask))
            want, end, _ = self.mixer(x[:, seen], S, None, EVERYTHING)
            self.equal("a masked token must leave no trace in other tokens", y[:, seen], want)
            self.equal("a masked token must leave no trace in the state", after, end)

    def check_gradient(self, x: Tensor, S: Tensor) -> None:
        """Later windows train earlier ones through S alone."""
        S = S.clone().requires_grad_()
        y, after, _ = self.mixer(x, S, None, EVERYTHING)
        weights = [weight for weight in self.mixer.parameters() if weight.requires_grad]
        for promise, gradients in (
            ("y must have a gradient with respect to the state", _gradients(y, [S])),
            ("the new state must have a gradient with respect to some weight", _gradients(after, weights)),
        ):
            require(any(gradient.any() for gradient in gradients), promise, None)
            require(all(gradient.isfinite().all() for gradient in gradients), f"{promise} that is finite", False)


class _Attention(_Contract):
    """A mixer without fast weights, in the contexts that a model gives it."""

    def __init__(self, mixer: Any, tolerance: float, rotary: Rotary) -> None:
        super().__init__(mixer, tolerance)
        self.rotary = rotary

    def read(self, x: Tensor, S: Tensor, sizes: Sequence[int]) -> tuple[Tensor, None]:
        return self.read_on(x, sizes)[0], None

    def read_on(
        self, x: Tensor, sizes: Sequence[int], cache: Any = None, mask: Tensor | None = None, start: int = 0
    ) -> tuple[Tensor, Any]:
        """y of tokens x in groups of these sizes, after the cached ones before position `start`, and the last cache
        entry."""
        parts, held = [], TOKENS - 1 if cache else 0
        for part in x.split(list(sizes), dim=1):
            n = part.shape[1]
            seen = None if mask is None else mask[:, : held + n]
            visible = visibility(n, held, TOKENS, seen, x.device)
            own = None if seen is None else seen[:, held:]
            ctx = PassContext(self.rotary(start, n, x), visible, own, visible)
            left = self.mixer(part, None, cache, ctx)
            check_left(self.mixer, left, None)
            y, _, cache = left
            check_kind("y", y, part)
            held, start = held + n, start + n
            if isinstance(cache, KV):
                sizes_of = "keys and values in the cache entry must be of the tokens so far, along dimension 2"
                fits = cache.keys.shape[2] == cache.values.shape[2] == held
                require(fits, f"{sizes_of}, {held}", cache.keys.shape[2])
            parts.append(y)
        return torch.cat(parts, dim=1), cache

    def check(self, x: Tensor, S: Tensor) -> None:
        super().check(x, S)
        self.check_masked(x)
        whole, cache = self.read_on(x, [TOKENS])
        if isinstance(cache, KV):
            self.check_evicted(x)
            self.check_slots(x, cache, whole)

    def check_masked(self, x: Tensor) -> None:
        """Other values of masked tokens change nothing, whether they are cached or not."""
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        mask[:, [0, 1, 8, TOKENS - 1]] = False
        other = torch.where(mask[..., None], x, -x)
        for sizes in ([TOKENS], [7, TOKENS - 7], [1] * TOKENS):
            y, z = (self.read_on(tokens, sizes, mask=mask)[0][mask] for tokens in (x, other))
            self.equal("what ctx.visible hides must leave no trace in other tokens", z, y)

    def check_evicted(self, x: Tensor) -> None:
        """Under sliding eviction the last of n tokens behind L - 1 kept ones sees no more than L."""
        n, other = 4, x.clone()
        other[:, 1:n] = -other[:, 1:n]
        last = [
            self.read_on(x[:, :n], [n], self.read_on(tokens, [TOKENS])[1].keep(TOKENS - 1), start=TOKENS)[0][:, -1]
            for tokens in (x, other)
        ]
        self.equal("what ctx.visible hides in the cache must leave no trace", last[1], last[0])

    def check_slots(self, x: Tensor, entry: KV, whole: Tensor) -> None:
        """In static buffers, which CUDA graphs need, every token writes into its slot."""
        promise = "a token must write its key and value into slot ctx.cache_slot of the cache entry and return that"
        cache = KV(torch.zeros_like(entry.keys), torch.zeros_like(entry.values))
        visible = torch.zeros(len(x), 1, 1, TOKENS, dtype=torch.bool)
        for at, token in enumerate(x.split(1, dim=1)):
            slot = torch.tensor([at])
            visible[..., at] = True
            ctx = PassContext(self.rotary.at(slot, x), visible, None, visible, slot)
            try:
                y, _, after = self.mixer(token, None, cache, ctx)
            except RuntimeError as error:  # it made the cache longer than what is visible
                raise ValueError(f"{promise}, got {error}") from None
            require(after[0].shape == entry.keys.shape, promise, tuple(after[0].shape))
            self.equal(promise, y[:, 0], whole[:, at])
            cache = after


def _gradients(of: Tensor, leaves: list[nn.Parameter] | list[Tensor]) -> list[Tensor]:
    gradients = (
        torch.autograd.grad(of.square().sum(), leaves, retain_graph=True, allow_unused=True) if of.requires_grad else ()
    )
    return [gradient for gradient in gradients if gradient is not None]
