"""Checks and converts the input of a session."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsleep.model import HybridLM
from lmsleep.windows import check_tokens

Tokens = Tensor | np.ndarray | Sequence[int] | Sequence[Sequence[int]] | Sequence[Tensor] | Sequence[np.ndarray] | int
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

    def select(self, rows: Sequence[int], start: int, stop: int) -> "TokenRows":
        """Tokens start .. stop - 1 of some rows, in their order."""
        whole = len(rows) == len(self.tokens)
        tokens, mask = (
            x if x is None else (x if whole else x[list(rows)])[:, start:stop] for x in (self.tokens, self.mask)
        )
        assert tokens is not None
        return TokenRows(tokens, [stop - start] * len(rows), mask)


def to_rows(tokens: Tokens, mask: Mask | None, batch_size: int | None, model: HybridLM) -> TokenRows:
    """Converts tokens in any accepted form. Raises ValueError if a shape does not fit or a token is not in the
    vocabulary."""
    device = model.embedding.weight.device
    rows, lengths = _padded(tokens)
    if batch_size not in (None, len(lengths)):
        raise ValueError(f"tokens must have {batch_size} rows, as those read before, got {len(lengths)}")
    check_tokens("tokens", rows, model.embedding.num_embeddings)
    seen = None if mask is None else _mask(mask, rows.shape).to(device)
    return TokenRows(rows.to(device), lengths, seen)


def _mask(mask: Mask, shape: torch.Size) -> Tensor:
    """A mask (B, n) from bool or zeros and ones, (B, n) or, for one row, (n,)."""
    seen = _tensor("mask", mask)
    seen = seen[None] if seen.ndim == 1 else seen
    if not seen.numel() or (not seen.is_floating_point() and ((seen == 0) | (seen == 1)).all()):
        seen = seen.bool()
    if seen.shape != shape or seen.dtype != torch.bool:
        got = f"{seen.dtype} {tuple(seen.shape)}"
        raise ValueError(f"mask must be bool of the shape of tokens {tuple(shape)}, got {got}")
    return seen


def _padded(tokens: Tokens) -> tuple[Tensor, list[int]]:
    """(B, n) int64, padded with zeros, and the lengths of the rows."""
    if isinstance(tokens, Sequence) and len(tokens) and np.ndim(tokens[0]):  # pyright: ignore[reportArgumentType]
        parts = [_row(row) for row in tokens]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), [len(part) for part in parts]
    rows = _tensor("tokens", tokens)
    rows = _integers(rows) if rows.ndim == 2 else _row(rows)[None]
    if not len(rows):
        raise ValueError(f"tokens must have at least one row, got {tuple(rows.shape)}")
    return rows, [rows.shape[1]] * len(rows)


def _row(tokens: object) -> Tensor:
    row = _integers(_tensor("tokens", tokens))
    if row.ndim > 1:
        raise ValueError(f"tokens must be (B, n), (n,) or a list of rows, got {row.ndim} axes")
    return row.reshape(-1)


def _tensor(name: str, values: object) -> Tensor:
    try:
        if isinstance(values, np.ndarray):  # torch takes no foreign byte order, negative strides or read-only arrays
            values = np.array(values, values.dtype.newbyteorder("="))
        elif isinstance(values, Sequence) and any(isinstance(value, Tensor | np.generic) for value in values):
            values = [value.item() for value in values]
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers, all rows as deep: {error}") from None


def _integers(tokens: Tensor) -> Tensor:
    if tokens.numel() and (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool):
        raise ValueError(f"tokens must be integers, got {tokens.dtype}")
    return tokens.long()


def gather_logits(
    pieces: Sequence[tuple[Sequence[int], int, Tensor]], rows: TokenRows, last_only: bool, head: Tensor
) -> Tensor:
    """Joins pieces (rows, position of the first token, logits (b, m, V)), in the order in which they were read, to the
    logits (B, n, V), or the last of each row (B, V); NaN where a row has no token. `head` (V, D) gives dtype and device
    if there are no pieces."""
    B, n = rows.tokens.shape
    if len(pieces) == 1 and len(pieces[0][0]) == B and rows.same_length:
        return pieces[0][2][:, -1] if last_only else pieces[0][2]
    like = pieces[0][2] if pieces else head
    logits = like.new_full((B, len(head)) if last_only else (B, n, len(head)), torch.nan)
    for of_rows, start, piece in pieces:
        if last_only:
            logits[list(of_rows)] = piece[:, -1]
        else:
            logits[list(of_rows), start : start + piece.shape[1]] = piece
    return logits
