"""A session as the cache of transformers."""

from dataclasses import fields

from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from lmsleep.hf.arguments import check_lengths
from lmsleep.runtime import Session

# What transformers calls the cache of a call and of its outputs: since 5.24 `cache`.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class SleepCache(Cache):
    """A `Session` as the cache of transformers: it holds S and the window of every row, and sleeps on overflow."""

    def __init__(self, session: Session) -> None:
        super().__init__(layers=[])
        self.session, self.seen = session, 0

    def read(self, tokens: Tensor, mask: Tensor | None, last_only: bool) -> Tensor:
        """Reads tokens (B, n), without those behind, where mask (B, n) is False, so that padding does not shift the
        windows of a row: logits (B, m, V), m tokens in the longest row, or (B, 1, V) of each row's last one."""
        lengths = None if mask is None else mask.sum(1).tolist()
        if lengths and last_only and not self.seen:
            check_lengths(lengths)
        rows = [row[:n] for row, n in zip(tokens, lengths, strict=True)] if lengths else tokens
        self.seen += tokens.shape[1]
        logits = self.session.feed(rows, last_only=last_only)
        return logits[:, None] if last_only else logits

    @property
    def is_linear(self) -> list[bool]:
        """False: a sequence begins with what was read, which `generate` then leaves out."""
        return [False]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of input read so far, padding included."""
        return self.seen

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Selects the rows `beam_idx` (B,), for beam search."""
        self.session.reorder(beam_idx.tolist())

    batch_select_indices = reorder_cache  # pyright: ignore[reportAssignmentType]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Goes on with every row several times."""
        self.session.repeat(repeats)

    def crop(self, tokens_to_remove: int) -> None:
        """Raises ValueError: a sleep cannot be undone. A copy, by `copy.deepcopy`, goes on from where it was made."""
        raise ValueError(f"a cache that sleeps cannot lose {tokens_to_remove} tokens: take a copy.deepcopy before")

    def reset(self) -> None:
        """Forgets all."""
        self.session.reset()
        self.seen = 0
