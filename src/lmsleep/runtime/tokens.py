"""Checks and converts the input of a session."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsleep.checks import counted, require
from lmsleep.model import HybridLM
from lmsleep.runtime.prompter import Prompter
from lmsleep.windows import check_tokens

Tokens = Tensor | np.ndarray | Sequence[int] | Sequence[Sequence[int]] | Sequence[Tensor] | Sequence[np.ndarray] | int
Input = Tokens | str | Sequence[str]
Mask = Tensor | np.ndarray | Sequence[bool] | Sequence[Sequence[bool]]


class TokenRows(NamedTuple):
    """Tokens (B, n) on the model's device, the lengths of the rows, and their mask (B, n) or None."""

    tokens: Tensor
    lengths: list[int]
    mask: Tensor | None

    @property
    def same_length(self) -> bool:
        """Whether all rows have n tokens."""
        return min(self.lengths) == self.tokens.shape[1]

    @property
    def ends(self) -> list[int]:
        """For each row the place behind its last token that is not masked; 0 if there is none."""
        if self.mask is None:
            return self.lengths
        places = torch.arange(1, self.mask.shape[1] + 1, device=self.mask.device)
        read = self.mask & (places <= torch.tensor(self.lengths, device=self.mask.device)[:, None])
        return torch.nn.functional.pad(read * places, (1, 0)).amax(1).tolist()

    def select(self, rows: Sequence[int], start: int, stop: int) -> "TokenRows":
        """Tokens start .. stop - 1 of some rows, in their order."""
        all_rows = len(rows) == len(self.tokens)
        tokens, mask = (
            x if x is None else (x if all_rows else x[list(rows)])[:, start:stop] for x in (self.tokens, self.mask)
        )
        assert tokens is not None
        return TokenRows(tokens, [stop - start] * len(rows), mask)


def to_rows(
    tokens: Input, mask: Mask | None, batch_size: int | None, model: HybridLM, prompter: Prompter | None = None
) -> TokenRows:
    """Converts tokens or texts in any accepted form. Raises ValueError if a shape does not fit, a token is not in the
    vocabulary, or there is no tokenizer for a text."""
    texts = [tokens] if isinstance(tokens, str) else tokens
    if isinstance(texts, Sequence) and len(texts) and all(isinstance(text, str) for text in texts):
        if prompter is None:
            raise ValueError(f"tokens must be integers where the session has no tokenizer, got text {texts[0]!r:.99}")
        tokens = [prompter.encode(str(text)) for text in texts]
    device = model.embedding.weight.device
    rows, lengths = _padded(tokens)
    if batch_size not in (None, len(lengths)):
        raise ValueError(f"tokens must have {counted(batch_size, 'rows')}, as those read before, got {len(lengths)}")
    check_tokens("tokens", rows, model.vocab_size)
    return TokenRows(rows.to(device), lengths, None if mask is None else _bool_mask(mask, rows.shape).to(device))


def _bool_mask(mask: Mask, shape: torch.Size) -> Tensor:
    """A mask (B, n) from bool or zeros and ones, (B, n) or, for one row, (n,)."""
    x = _tensor("mask", mask)
    x = x[None] if x.ndim == 1 else x
    if not x.numel() or (not x.is_floating_point() and ((x == 0) | (x == 1)).all()):
        x = x.bool()
    if x.shape != shape or x.dtype != torch.bool:
        raise ValueError(f"mask must be bool of the shape of tokens {tuple(shape)}, got {x.dtype} {tuple(x.shape)}")
    return x


def _padded(tokens: object) -> tuple[Tensor, list[int]]:
    """(B, n) int64, padded with zeros, and the lengths of the rows."""
    if isinstance(tokens, Sequence) and len(tokens) and np.ndim(tokens[0]):
        parts = [_integers(row, 1).reshape(-1) for row in tokens]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), [len(part) for part in parts]
    rows = _integers(tokens, 2)
    rows = rows if rows.ndim == 2 else rows.reshape(1, -1)
    require(len(rows), "tokens must have at least one row", tuple(rows.shape))
    return rows, [rows.shape[1]] * len(rows)


def _integers(tokens: object, max_axes: int) -> Tensor:
    """int64 with at most so many axes."""
    x = _tensor("tokens", tokens)
    if x.numel() and (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool):
        raise ValueError(f"tokens must be integers, got {x.dtype}")
    if x.ndim > max_axes:
        raise ValueError(f"tokens must be (B, n), (n,) or a list of rows, got {x.ndim} axes")
    return x.long()


def _tensor(name: str, values: object) -> Tensor:
    try:
        if isinstance(values, np.ndarray):  # torch takes no foreign byte order, negative strides or read-only arrays
            values = np.array(values, values.dtype.newbyteorder("="))
        elif isinstance(values, Sequence) and any(isinstance(value, Tensor | np.generic) for value in values):
            values = [value.item() for value in values]
        return values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers, all rows as deep: {error}") from None


def gather_logits(
    pieces: Sequence[tuple[Sequence[int], int, Tensor]], rows: TokenRows, last_only: bool, head: Tensor
) -> Tensor:
    """Joins pieces (rows, position of the first token, logits (b, m, V)), in the order in which they were read, to the
    logits (B, n, V), or the last of each row that is not masked (B, V), behind which a piece must end; NaN where a row
    has no token. `head` (V, D) gives dtype and device if there are no pieces."""
    B, n = rows.tokens.shape
    if len(pieces) == 1 and len(pieces[0][0]) == B and rows.same_length and not (last_only and rows.mask is not None):
        return pieces[0][2][:, -1] if last_only else pieces[0][2]
    like = pieces[0][2] if pieces else head
    logits = like.new_full((B, len(head)) if last_only else (B, n, len(head)), torch.nan)
    ends = rows.ends
    for of_rows, start, piece in pieces:
        if last_only:
            places = [place for place, row in enumerate(of_rows) if start < ends[row]]
            logits[[of_rows[place] for place in places]] = piece[places, -1]
        else:
            logits[list(of_rows), start : start + piece.shape[1]] = piece
    return logits
