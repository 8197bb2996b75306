"""The hybrid language model: embedding, blocks, output projection, and the ways a window runs through the blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmsleep.memory import AttentionCache, FastWeights
from lmsleep.model.attention import Span
from lmsleep.model.block import Blocks, joined_mask
from lmsleep.model.checkpoint import load_model, save_model
from lmsleep.model.config import HybridConfig
from lmsleep.model.norm import RMSNorm


@dataclass(frozen=True)
class Wake:
    """What a wake pass leaves.

    Args:
        h: (B, n, D) output of the last block. core: the same after the looped blocks, where a sleep starts.
        before, S: fast weights before and after.
        past, cache: visible tokens before and after.
        mask: (B, n) or None.
    """

    h: Tensor
    core: Tensor
    before: FastWeights
    S: FastWeights
    past: AttentionCache
    cache: AttentionCache
    mask: Tensor | None = None


class HybridLM(nn.Module):
    """Attention and fast-weight blocks over a small window (paper eq. 5). Build it with `HybridConfig.build`."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None and config.window_size is not None
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        norm = RMSNorm(config.d_model, config.norm_eps)
        between = config.norm_between_passes
        self.blocks = Blocks(config, norm if between else nn.Identity())
        self.norm = nn.Identity() if between else norm
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Projections normal with variance 1 / fan-in, the head with standard deviation 0.02, embeddings with
        `embedding_std`; output projections zero under `zero_init`. A subclass of `nn.Linear` keeps its own start."""
        for name, module in self.named_modules():
            if type(module) is nn.Linear:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if self.config.zero_init and name.rsplit(".", 1)[-1] in ("o_proj", "out_proj", "down_proj"):
                    nn.init.zeros_(module.weight)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.normal_(self.embedding.weight, std=self.config.embedding_std)

    @property
    def window_size(self) -> int:
        """L, tokens that attention can see together."""
        assert self.config.window_size is not None
        return self.config.window_size

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, n) -> (B, n, D)."""
        return self.embedding(tokens)

    def logits(self, h: Tensor) -> Tensor:
        """(B, n, D) -> (B, n, V)."""
        return self.head(self.norm(h))

    def init_fast_weights(self, batch_size: int) -> FastWeights:
        """S at the start of a sequence: zeros, float32 or wider."""
        weight = self.embedding.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return FastWeights.zeros(self.blocks.state_shapes, batch_size, weight.device, dtype)

    def init_cache(self) -> AttentionCache:
        """The attention cache before the first token."""
        return self.blocks.empty_cache()

    def wake(
        self,
        tokens: Tensor,
        S: FastWeights,
        cache: AttentionCache,
        mask: Tensor | None = None,
        span: Span | None = None,
        keep: bool = True,
    ) -> Wake:
        """The wake pass over n tokens (B, n) of the current window, all of them or one: embed, every block once.
        `span` is for decoding in buffers of fixed size, see `Blocks.run`. Without `keep` the cache after them counts
        the tokens and holds nothing else, which is enough where a hard eviction follows, or nothing at all.

        Raises:
            ValueError: if the tokens do not fit into the window, or those in the cache were read without `keep`.
        """
        if tokens.shape[1] > cache.room:
            raise ValueError(f"tokens must fit into the {cache.room} free places of the window, got {tokens.shape[1]}")
        depth, (_, last) = self.config.depth, self.config.looped
        core, core_S, layers = self.blocks.run(0, last, self.embed(tokens), S, cache, mask, span, keep)
        h, after = core, core_S
        if last < depth:
            h, after, coda = self.blocks.run(last, depth, core, core_S, cache, mask, span, keep)
            layers = layers + coda
        extended = cache.extended(tokens.shape[1], layers if keep else (), joined_mask(mask, cache, h))
        return Wake(h, core, S, after, cache, extended, mask)

    def loop_pass(self, h: Tensor, S: FastWeights, wake: Wake) -> tuple[Tensor, FastWeights]:
        """One more pass of the looped blocks over the window that `wake` has read, seeing the same tokens before it."""
        first, last = self.config.looped
        h, S, _ = self.blocks.run(first, last, h, S, wake.past, wake.mask, keep=False)
        return h, S

    def coda_pass(self, h: Tensor, S: FastWeights, wake: Wake) -> FastWeights:
        """S after the blocks behind the loop have read the refined h once, from the S they had before the window."""
        depth, (_, last) = self.config.depth, self.config.looped
        if last == depth:
            return S
        coda = {index: wake.before[index] for block, index in self.blocks.state_index.items() if block >= last}
        return self.blocks.run(last, depth, h, S.with_layers(coda), wake.past, wake.mask, keep=False)[1]

    def forward(self, tokens: Tensor, S: FastWeights | None = None) -> tuple[Tensor, FastWeights]:
        """Logits (B, n, V) and S after one pass over one window (B, n)."""
        h, after = self.blocks(self.embed(tokens), self.init_fast_weights(len(tokens)) if S is None else S)
        return self.logits(h), after

    def save_pretrained(
        self, folder: str | Path, card: str | None = None, trained: Mapping[str, Any] | None = None
    ) -> None:
        """Writes model.safetensors, config.json and the model card README.md, each of them whole or not at all.

        Args:
            card: Markdown that opens the model card: what the model is and how it was trained.
            trained: kept in config.json; `n_passes`, `eviction` and `task` are read by others.

        Raises:
            ValueError: if `trained` does not fit into JSON, or a file is in the place of the folder.
        """
        save_model(self, folder, card, trained)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "HybridLM":
        """The model of a folder that `save_pretrained` wrote, in evaluation mode; safetensors and JSON only.

        Args:
            source: the folder, or `owner/model` on the Hugging Face hub, optionally with `@revision`.
            dtype: None: as saved.

        Raises:
            ValueError: if there is no such model, a file is damaged, or a tensor is missing, unknown or misshaped.
        """
        return load_model(source, dtype, device)
