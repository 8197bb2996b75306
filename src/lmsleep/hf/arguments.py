"""What `forward` and `from_pretrained` are given: checks, padding, devices."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lmsleep.checks import require


def mask_of(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Which of the tokens (B, n) are no padding, (B, n) bool. Raises ValueError if a shape does not fit."""
    shape = tuple(getattr(input_ids, "shape", ()))
    require(len(shape) == 2, "input_ids must be a tensor (B, n)", shape or type(input_ids).__name__)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    recent = mask[..., -input_ids.shape[1] :].bool()
    allowed = f"attention_mask must have the shape of input_ids {shape} or be wider"
    require(recent.shape == shape, allowed, tuple(mask.shape))
    return recent


def check_arguments(mask: Tensor, labels: Tensor | None, logits_to_keep: Any, others: Mapping[str, Any]) -> None:
    """Raises ValueError where tokens with this mask (B, n) cannot be read as the arguments of a `forward` say."""
    for name in ("inputs_embeds", "output_hidden_states", "output_attentions"):
        given = others.get(name)
        require(given is None or given is False, f"{name} must be left out", given)
    shape = tuple(mask.shape)
    if labels is not None:
        require(labels.shape == shape, f"labels must have the shape of input_ids {shape}", tuple(labels.shape))
        whole = isinstance(logits_to_keep, int) and logits_to_keep == 0
        require(whole, "logits_to_keep must be left out beside labels", logits_to_keep)
    if (positions := others.get("position_ids")) is not None:
        packed = (positions.diff() <= 0) & mask[:, 1:] & mask[:, :-1]
        require(not packed.any(), "position_ids must grow: rows that are packed into one would share S", "packed rows")


def check_lengths(lengths: Sequence[int]) -> None:
    """Raises ValueError if rows of which the last logits are asked for have no token."""
    if not all(lengths):
        raise ValueError(f"attention_mask must leave every row a token, got rows of {lengths}")


def undo_order(logits: Tensor, order: Tensor, mask: Tensor) -> Tensor:
    """Undoes the `order` (B, n) on logits (B, m, V): (B, n, V), 0 where the mask (B, n) is False."""
    whole = pad(logits, (0, 0, 0, order.shape[1] - logits.shape[1]))
    whole = whole.gather(1, order.argsort(1)[:, :, None].expand_as(whole))
    # What is read at padding has seen the tokens, from before which it may come.
    return whole.masked_fill(~mask[:, :, None], 0)


def device_of(device_map: Any) -> Any:
    """The only device of a device_map. Raises ValueError if it has several."""
    if device_map == "auto":
        return "cuda" if torch.cuda.is_available() else None
    devices = set(device_map.values()) if isinstance(device_map, dict) else {device_map}
    require(len(devices) == 1, "device_map must name one device", device_map)
    return devices.pop()
