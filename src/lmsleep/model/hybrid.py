"""The hybrid model on one page: configuration, stack of blocks, language model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmsleep.checks import check_integer, checked, require
from lmsleep.memory import AttentionCache, FastWeights, LayerCache
from lmsleep.model.attention import Rotary
from lmsleep.model.block import Block, LazySum, PassContext
from lmsleep.model.config import MAX_SIZE, BetweenPasses, Check, ModelConfig
from lmsleep.model.folder import load_folder, write_folder
from lmsleep.model.layers import RMSNorm
from lmsleep.model.linear import SharedWeights, lookup_embedding
from lmsleep.model.lora import Lora, merged
from lmsleep.model.mixers import checks_of_mixers, make_mixer
from lmsleep.ops.window_attention.sdpa import visibility
from lmsleep.tensors import usable_device
from lmsleep.windows import check_n_passes, check_shapes, check_tokens

MAX_TABLE = 8192  # rows of the rotary table; later positions are computed in every pass


@dataclass(frozen=True)
class HybridConfig(ModelConfig):
    """The configuration of a model and what follows from it: the model itself, its parameters and its operations.

    Raises:
        ValueError: as `ModelConfig`, or if a letter of the pattern has no mixer, or a mixer has no such option.
    """

    def checks(self) -> Iterator[Check]:
        """As `ModelConfig.checks`, and those of the mixers."""
        yield from checks_of_mixers(self)
        yield from super().checks()

    def build(self, device: torch.device | str | None = None) -> "HybridLM":
        """The model with freshly drawn weights. Raises ValueError if vocab_size or window_size is still missing, or
        torch cannot use the device here."""
        for name in ("vocab_size", "window_size"):
            require(getattr(self, name) is not None, f"{name} must be set before the model is built", None)
        with usable_device(device):
            return HybridLM(self)

    def num_params(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.build("meta").parameters())

    def flops_per_token(self, n_passes: int = 1) -> int:
        """FLOPs of one token of a full window that is read N times, and of its logits, forward.

        Counts matrix products, two operations per multiply-add: projections, attention over the whole window (the
        masked half included), reads and writes of the fast weights; not element-wise work and the short convolution. A
        sleep repeats the looped blocks N - 1 times and the coda once. A training step takes three times as many. Raises
        ValueError if n_passes is below 1.
        """
        check_n_passes(n_passes)
        model = self.build("meta")
        first, last = self.loop_range
        costs = [layer.flops_per_token(self.window_size or 0) for layer in model.blocks.layers]
        again = (n_passes - 1) * sum(costs[first:last]) + (sum(costs[last:]) if n_passes > 1 else 0)
        return sum(costs) + again + 2 * self.d_model * (self.vocab_size or 0)


INIT_FIELDS = frozenset({"zero_init", "embedding_std", "decay_rates"})  # that only the initial weights depend on


def _block(c: HybridConfig, letter: str, has_mlp: bool) -> Block:
    return Block(make_mixer(c, letter), c.d_model, c.mlp_hidden if has_mlp else None, c.norm_eps, c.sandwich_norm)


class Blocks(nn.Module):
    """The stack of blocks. `blocks(h, S)` is one pass over one window; nothing is mutated.

    Attributes:
        checkpointing: recompute a pass in the backward instead of storing its activations.
    """

    def __init__(self, config: HybridConfig, norm: nn.Module) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        layers = nn.ModuleList(_block(config, *layer) for layer in config.layers())
        self.layers: Sequence[Block] = layers  # pyright: ignore[reportAttributeAccessIssue]
        table = min(config.window_size or 1, MAX_TABLE)
        turning = config.rotary_dim, config.rope_scaling
        self.rotary = Rotary(config.attention_head_dim, config.rope_theta, table, *turning)
        self.pass_norm = norm
        shapes = {i: layer.mixer.state_shape for i, layer in enumerate(self.layers)}
        fast = {i: shape for i, shape in shapes.items() if shape is not None}
        self.state_shapes = list(fast.values())  # of one row
        self.state_index = {block: index for index, block in enumerate(fast)}

    def forward(
        self, h: Tensor, S: FastWeights, cache: AttentionCache | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, FastWeights]:
        """One pass over the n <= L tokens of a window: (B, n, D), S -> (B, n, D), S.

        Args:
            cache: of the tokens before them; None: there are none.
            mask: (B, n) bool, False for masked tokens.

        Raises:
            ValueError: if h has more tokens than fit into the window.
        """
        cache = cache or AttentionCache(self.config.window_size or 1)
        require(h.shape[1] <= cache.room, f"h must fit into the {cache.room} free places of the window", h.shape[1])
        return self.run(0, self.config.depth, h, S, cache, self.context(h, cache, mask, use_cache=False))[:2]

    def context(
        self,
        h: Tensor,
        cache: AttentionCache,
        mask: Tensor | None = None,
        use_cache: bool = True,
        need_h: bool = True,
        shared: SharedWeights | None = None,
    ) -> PassContext:
        """The `PassContext` of the n tokens of h (B, n, D) after the cached ones. Raises ValueError if the cache has no
        entries of these."""
        n, cached, width = h.shape[1], cache.held, self.config.sliding_window
        if cached and not cache.layers:
            raise ValueError(
                f"cache must hold what the {cached} tokens before left: they were read with use_cache=False"
            )
        everyone = cache.joined_mask(mask, h)
        visible_sliding = visible = visibility(n, cached, cache.capacity, everyone, h.device)
        if width is not None and width < cache.capacity:
            visible_sliding = visibility(n, cached, width, everyone, h.device)
        rotary = self.rotary(cache.position, n, h)
        return PassContext(rotary, visible, mask, visible_sliding, None, use_cache, need_h or use_cache, shared)

    def run(
        self, first: int, last: int, h: Tensor, S: FastWeights, cache: AttentionCache, ctx: PassContext
    ) -> tuple[Tensor, FastWeights, tuple[LayerCache, ...]]:
        """Runs blocks first .. last - 1, and the pass norm after the last block of the stack. Returns h (of no tokens
        without `ctx.need_h`), S and the cache entry of each block (of no use unless `ctx.use_cache`)."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._run, first, last, h, S, cache, ctx, use_reentrant=False)  # pyright: ignore
        return self._run(first, last, h, S, cache, ctx)

    def _run(
        self, first: int, last: int, h: Tensor, S: FastWeights, cache: AttentionCache, ctx: PassContext
    ) -> tuple[Tensor, FastWeights, tuple[LayerCache, ...]]:
        changed: dict[int, Tensor] = {}
        kept: list[LayerCache] = []
        total, writers = LazySum(h), [i for i in self.state_index if first <= i < last]
        stop = last if ctx.need_h else 1 + max(writers, default=first - 1)
        inner = replace(ctx, need_h=True)
        for i in range(first, stop):
            index, here = self.state_index.get(i), inner if i < stop - 1 else ctx
            total, state, entry = self.layers[i](total, None if index is None else S[index], cache.layer(i), here)
            kept.append(entry)
            if index is not None:
                changed[index] = state
        if not ctx.need_h:
            return h[:, :0].detach(), S.with_layers(changed), tuple(kept)
        h = total.h if total.y is None else total.h + total.y
        if last == self.config.depth:
            h = self.pass_norm(h)
        return h, S.with_layers(changed), tuple(kept)


RunFn = Callable[
    [int, int, Tensor, FastWeights, AttentionCache, PassContext], tuple[Tensor, FastWeights, tuple[LayerCache, ...]]
]  # `Blocks.run`


@dataclass(frozen=True)
class Wake:
    """The result of a wake pass.

    Args:
        h: (B, n, D) output of the last block. core: (B, n, D) output of the looped blocks, where a sleep starts.
        before, S: fast weights before and after.
        past, cache: attention cache before and after.
        mask: (B, n) or None.
        inputs: (B, n, D) of the first block; None if they were not kept.
        shared: as in `PassContext`, for further passes too.
        run: takes the place of `Blocks.run` in further passes.
    """

    h: Tensor
    core: Tensor
    before: FastWeights
    S: FastWeights
    past: AttentionCache
    cache: AttentionCache
    mask: Tensor | None = None
    inputs: Tensor | None = None
    shared: SharedWeights | None = None
    run: RunFn | None = None

    @property
    def embedded(self) -> Tensor:
        """The embedded tokens (B, n, D). Raises ValueError in a session, which keeps none."""
        if self.inputs is None:
            rule = "between_passes must not be 'embed', nor an on_overflow read wake.embedded"
            raise ValueError(f"{rule}, in a session, which keeps no tokens")
        return self.inputs


# h (B, n, D) and S that the next pass of a sleep starts from, given those that the last one returned.
BETWEEN_PASSES: dict[BetweenPasses, Callable[[Tensor, FastWeights, Wake], tuple[Tensor, FastWeights]]] = {
    "carry": lambda h, S, wake: (h, S),  # Algorithm 1
    "reset": lambda h, S, wake: (h, wake.before),  # S from before the window: only the last pass counts
    "embed": lambda h, S, wake: (wake.embedded, S),  # the embedded tokens
    "cut_h": lambda h, S, wake: (h.detach(), S),  # no gradient through h
    "cut": lambda h, S, wake: (h.detach(), S.detach()),  # no gradient at all: only the last sleep is trained
}


def check_model(model: object) -> None:
    """Raises ValueError unless `model` is a `HybridLM`, or one that torch has compiled."""
    other = isinstance(model, nn.Module)
    way = "another module sleeps by lmsleep.sleep.sleep" if other else "from_pretrained reads a folder"
    require(hasattr(model, "loop_pass"), f"model must be a HybridLM; {way}", type(model).__name__ if other else model)


class HybridLM(nn.Module):
    """Attention and fast-weight blocks over a small window (paper eq. 5). Build it with `HybridConfig.build`.

    tokens (B, n)
      |  embedding
    h (B, n, D)
      |  blocks 0 .. first - 1       once a window
      |  blocks first .. last - 1    N times if the window sleeps (`loop`; by default all blocks)
      |  blocks last .. depth - 1    the coda: in the wake pass, and once more after a sleep
      |  norm                        (at the end of every pass with `norm_between_passes`)
      |  head
    logits (B, n, V)

    Each fast-weight block reads and writes its own part of S, each attention block its own part of the cache.

    Attributes:
        trained: metadata of the training, of a model that was loaded; see `save_pretrained`.
    """

    @checked
    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None and config.window_size is not None
        self.config, self.vocab_size, self.window_size = config, config.vocab_size, config.window_size
        self.lora: Lora | None = None
        self.trained: dict[str, Any] = {}
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        norm, between = RMSNorm(config.d_model, config.norm_eps), config.norm_between_passes
        self.blocks = Blocks(config, norm if between else nn.Identity())
        self.norm = nn.Identity() if between else norm
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._tie()
        self.reset_parameters()

    def _tie(self) -> None:
        if self.config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def reset_parameters(self) -> None:
        """Initialises every `nn.Linear` (not its subclasses) and the embedding.

        | weight | start |
        |---|---|
        | `embedding`, and a `head` tied to it | normal, standard deviation `embedding_std` |
        | `head` | normal, 0.02 |
        | `o_proj`, `out_proj`, `down_proj` under `zero_init` | zero |
        | every other projection | normal, fan_in ** -0.5 |
        | biases | zero |
        | norms, convolutions, decay | as in their modules |
        """
        for name, module in self.named_modules():
            if type(module) is nn.Linear:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if self.config.zero_init and name.rsplit(".", 1)[-1] in ("o_proj", "out_proj", "down_proj"):
                    nn.init.zeros_(module.weight)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.normal_(self.embedding.weight, std=self.config.embedding_std)

    def init_fast_weights(self, batch_size: int) -> FastWeights:
        """S at the start of a sequence: zeros, float32 or wider."""
        check_integer("batch_size", batch_size, 1, MAX_SIZE)
        weight = self.embedding.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return FastWeights.zeros(self.blocks.state_shapes, batch_size, weight.device, dtype)

    def init_cache(self) -> AttentionCache:
        """The attention cache before the first token."""
        return AttentionCache(self.window_size)

    def embed(self, tokens: Tensor, shared: SharedWeights | None = None) -> Tensor:
        """(B, n) -> (B, n, D). On a CPU, raises ValueError if a token is not in the vocabulary."""
        try:
            return lookup_embedding(self.embedding, tokens, shared)
        except IndexError:  # not looked for before: `torch.func.vmap` cannot branch on values
            check_tokens("tokens", tokens, self.vocab_size)
            raise

    def logits(self, h: Tensor) -> Tensor:
        """(B, n, D) -> (B, n, V)."""
        return self.head(self.norm(h))

    def forward(self, tokens: Tensor, S: FastWeights | None = None) -> tuple[Tensor, FastWeights]:
        """Logits (B, n, V) and S after one pass over one window (B, n). Raises ValueError if n is above L, or tokens
        are no integers of that shape or, on a CPU, not in the vocabulary."""
        check_shapes(tokens)
        rule = f"tokens must fit into a window of {self.window_size}; read_windows and Session read more"
        require(tokens.shape[1] <= self.window_size, rule, tokens.shape[1])
        h, after = self.blocks(self.embed(tokens), self.init_fast_weights(len(tokens)) if S is None else S)
        return self.logits(h), after

    def wake(
        self,
        tokens: Tensor,
        S: FastWeights,
        cache: AttentionCache,
        mask: Tensor | None = None,
        ctx: PassContext | None = None,
        use_cache: bool = True,
        need_h: bool = True,
        shared: SharedWeights | None = None,
    ) -> Wake:
        """The wake pass over tokens (B, n) of the current window: embedding, then every block once.

        Args:
            mask: (B, n) bool, False for masked tokens.
            ctx: for decoding with a static cache; None: the tokens follow those of the cache.
            use_cache: False: the new cache counts the tokens but has no entries, which suffices before a hard eviction.
            need_h: False: h of the result has no tokens, unless `use_cache` needs every block.
            shared: as in `PassContext`.

        Raises:
            ValueError: if the tokens do not fit into the window, or the cache has no entries of those before.
        """
        n, depth, last = tokens.shape[1], self.config.depth, self.config.loop_range[1]
        require(n <= cache.room, f"tokens must fit into the {cache.room} free places of the window", n)
        embedded = self.embed(tokens, shared)
        ctx = ctx or self.blocks.context(embedded, cache, mask, use_cache, need_h, shared)
        core_ctx = replace(ctx, need_h=ctx.need_h or last < depth)  # the coda starts from h
        core, core_S, kept = self.blocks.run(0, last, embedded, S, cache, core_ctx)
        h, after = core, core_S
        if last < depth:
            h, after, behind = self.blocks.run(last, depth, core, core_S, cache, ctx)
            kept = kept + behind
        extended = cache.extended(n, kept if use_cache else (), cache.joined_mask(mask, embedded))
        return Wake(h, core, S, after, cache, extended, mask, embedded, shared)

    def loop_pass(self, h: Tensor, S: FastWeights, wake: Wake) -> tuple[Tensor, FastWeights]:
        """One more pass of the looped blocks over the window of `wake`."""
        return self._read_again(*self.config.loop_range, h, S, wake)

    def sleep_pass(self, h: Tensor, S: FastWeights, wake: Wake) -> tuple[Tensor, FastWeights]:
        """The `loop_pass` of a sleep, which starts from what `between_passes` makes of h and S."""
        return self.loop_pass(*BETWEEN_PASSES[self.config.between_passes](h, S, wake), wake)

    def coda_pass(self, h: Tensor, S: FastWeights, wake: Wake) -> tuple[Tensor, FastWeights]:
        """h and S after one pass of the blocks behind the loop, from their S before the window."""
        depth, last = self.config.depth, self.config.loop_range[1]
        return (h, S) if last == depth else self._read_again(last, depth, h, self.rewind(S, wake, last, depth), wake)

    def _read_again(self, first: int, last: int, h: Tensor, S: FastWeights, wake: Wake) -> tuple[Tensor, FastWeights]:
        ctx = self.blocks.context(h, wake.past, wake.mask, use_cache=False, shared=wake.shared)
        return (wake.run or self.blocks.run)(first, last, h, S, wake.past, ctx)[:2]

    def rewind(self, S: FastWeights, wake: Wake, first: int, last: int) -> FastWeights:
        """S with the states of blocks first .. last - 1 reset to those before the window of `wake`."""
        chosen = [i for block, i in self.blocks.state_index.items() if first <= block < last]
        return S.with_layers({i: wake.before[i] for i in chosen})

    @checked
    def save_pretrained(
        self,
        folder: str | Path,
        card: str | None = None,
        trained: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Writes model.safetensors, config.json and the model card README.md, all or none. Adapters are merged.

        Args:
            card: Markdown that opens the model card: what the model is and how it was trained.
            trained: metadata of the training for config.json, of which `n_passes`, `eviction` and `task` say how a
                `Session` of the folder sleeps and asks; None: `self.trained`, of a loaded model those of its folder.
            files: contents of further files by name, such as `lmsleep.hub.tokenizer_files`.

        Raises:
            ValueError: if `trained` does not fit into JSON, or `folder` is a file.
        """
        weights, tied = self.state_dict(), self.head.weight is self.embedding.weight
        weights = weights if self.lora is None else merged(weights, self.lora.scale)
        if tied:
            del weights["head.weight"]
        config = replace(self.config, tie_embeddings=tied).to_dict()
        write_folder(folder, config, weights, card, dict(self.trained if trained is None else trained), files or {})

    @classmethod
    def from_pretrained(
        cls, source: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "HybridLM":
        """Loads a model of `save_pretrained`, in evaluation mode; only safetensors and JSON are read.

        Args:
            source: the folder, or `owner/model` on the Hugging Face hub, optionally with `@revision`.
            dtype: None: as saved. device: None: the CPU.

        Raises:
            ValueError: if there is no such model or device, a file is damaged, or a tensor is missing, unknown, not
                finite or of a wrong shape.
        """
        known = dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)
        require(known, "dtype must be a floating-point dtype of torch or None", dtype)
        model: HybridLM = load_folder(HybridConfig, source, device)
        model._tie()
        model.blocks.rotary.fill(model.embedding.weight)
        return model.to(dtype=dtype).eval()
