"""The description of a family of pretrained models, and the reading of its config.json."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from lmsleep.checks import check_integer, read_object, typed
from lmsleep.model import HybridConfig
from lmsleep.model.config import MAX_DEPTH, MAX_SIZE

T = TypeVar("T")


class HFConfig:
    """A config.json in the format of transformers; reading a bad key raises ValueError."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = values, source

    @classmethod
    def read(cls, folder: Path) -> "HFConfig":
        """Reads the config.json of a folder."""
        path = folder / "config.json"
        return cls(read_object(path), str(path))

    def take(self, name: str, kind: type[T]) -> T:
        """The value of a key. Raises ValueError if it is absent or of another type; a float may be a string, as YAML
        reads 1e-5."""
        value = self.values.get(name)
        if kind is float and isinstance(value, str):
            with suppress(ValueError):
                value = float(value)
        return typed(kind, value, f"{name} in {self.source}")

    def count(self, name: str, most: int = MAX_SIZE) -> int:
        """The value of a key, an integer from 1 to `most`."""
        value = self.take(name, int)
        check_integer(f"{name} in {self.source}", value, 1, most)
        return value

    def section(self, *names: str) -> "HFConfig":
        """A nested object."""
        inner = self
        for name in names:
            inner = HFConfig(inner.take(name, dict), f"{name} of {inner.source}")
        return inner

    def expect(self, name: str, *allowed: Any) -> None:
        """Raises ValueError unless the key is absent or has an allowed value."""
        if name in self.values and self.values[name] not in allowed:
            choices = " or ".join(repr(value) for value in allowed)
            raise ValueError(f"{name} in {self.source} must be {choices}, got {self.values[name]!r}")


def base_fields(hf: HFConfig, rotary_share: float | None = None) -> dict[str, Any]:
    """Fields of `HybridConfig` that all families have under the same keys.

    Args:
        rotary_share: default share of a head's channels that are rotated; None: always all.

    Raises:
        ValueError: if a key is missing or has a value that our model does not support.
    """
    hf.expect("hidden_act", "silu")
    hf.expect("attention_dropout", 0, 0.0)
    hf.expect("use_mrope", False)
    heads, width = hf.count("num_attention_heads"), hf.count("hidden_size")
    head_dim = hf.count("head_dim") if hf.values.get("head_dim") is not None else None
    return {
        "vocab_size": hf.count("vocab_size"),
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": hf.count("num_key_value_heads"),
        "head_dim": head_dim,
        "mlp_dim": hf.count("intermediate_size"),
        "norm_eps": hf.take("rms_norm_eps", float),
        "tie_embeddings": hf.take("tie_word_embeddings", bool),
        **_rotary(hf, head_dim or width // heads, rotary_share),
    }


def _rotary(hf: HFConfig, head_dim: int, rotary_share: float | None) -> dict[str, Any]:
    """From `rope_parameters`, as transformers 5 writes it, or `rope_theta` and `rope_scaling`, as earlier ones did."""
    name = next((n for n in ("rope_parameters", "rope_scaling") if hf.values.get(n) is not None), None)
    beside = {n: hf.values[n] for n in ("rope_theta", "partial_rotary_factor") if n in hf.values}
    inner = hf.section(name) if name else hf
    rope = HFConfig({**beside, **inner.values}, inner.source)
    kind = "rope_type" if "rope_type" in rope.values else "type"
    rope.expect(kind, "default", "llama3")
    stretch = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    if rotary_share is None:
        rope.expect("partial_rotary_factor", None, 1.0)
    elif "partial_rotary_factor" in rope.values:
        rotary_share = rope.take("partial_rotary_factor", float)
    return {
        "rope_theta": rope.take("rope_theta", float),
        "rope_scaling": tuple(rope.take(n, float) for n in stretch) if rope.values.get(kind) == "llama3" else None,
        "rotary_dim": None if rotary_share is None else int(head_dim * rotary_share),
    }


def pattern_of(hf: HFConfig, of: Mapping[str, str], default: Callable[[int], str] | None = None) -> str:
    """The pattern of `layer_types`, by our letter `of` each type; if the key is absent, of the `default` types by
    layer. Raises ValueError if it is no such list, or a type is not in `of`."""
    depth, absent = hf.count("num_hidden_layers", MAX_DEPTH), hf.values.get("layer_types") is None
    types = [default(i) for i in range(depth)] if default and absent else hf.take("layer_types", list)
    if len(types) != depth or not set(map(str, types)) <= set(of):
        raise ValueError(f"layer_types in {hf.source} must be {depth} of {', '.join(of)}, got {types}")
    return "".join(of[kind] for kind in types)


def insert_jets(fields: dict[str, Any], pattern: str) -> dict[str, Any]:
    """Inserts a Jet layer after every fourth block of `pattern` (with fewer blocks, after the last).

    A Jet layer has half as many heads as attention, of the same key width and twice the value width. In Ouro 1.4B that
    is six layers of 8 heads x 128 x 256, 8.1 % more parameters; Jet-Nemotron's own shape would exceed the 10 % that the
    paper states. Output projections are zero, so that the model starts unchanged.
    """
    head_dim = fields["head_dim"] or fields["d_model"] // fields["n_heads"]
    every = min(4, len(pattern))
    return fields | {
        "head_dim": head_dim,
        "pattern": "".join(letter if block % every else f"{letter}j" for block, letter in enumerate(pattern, 1)),
        "fast_heads": max(1, fields["n_heads"] // 2),
        "fast_key_dim": head_dim,
        "fast_value_dim": 2 * head_dim,
        "fast_norm_eps": 1e-5,
    }


def middle_loop(pattern: str) -> tuple[int, int]:
    """The loop over the middle half of the blocks (section 6.3 of the paper), extended to the nearest block with fast
    weights if it has none."""
    first, last = len(pattern) // 4, len(pattern) - len(pattern) // 4
    writers = [block for block, letter in enumerate(pattern) if letter.upper() not in "AW"]
    nearest = min(writers, key=lambda block: max(first - block, block - last + 1, 0), default=first)
    return min(first, nearest), max(last, nearest + 1)


class Origin(NamedTuple):
    """A module or tensor of the checkpoint, and how it becomes a parameter; None: unchanged."""

    name: str
    convert: Callable[[Tensor, HybridConfig], Tensor] | None = None

    def part_of(self, tensor: Tensor, config: HybridConfig) -> Tensor:
        """The parameter. Raises RuntimeError if the shape of the tensor does not fit."""
        return tensor if self.convert is None else self.convert(tensor, config)


@dataclass(frozen=True)
class Backbone:
    """A family of pretrained models.

    The blocks with an MLP are the checkpoint's layers in their order; blocks without one are inserted, and keep their
    initial weights.

    Args:
        config: from config.json to ours; window_size is left open.
        parts: our name of a module or parameter, in or outside of blocks -> the checkpoint's. A mixer is called by its
            letter; the longest match counts: `A.q_proj` before `A`.
        unused: patterns of tensor names that are ignored.
    """

    config: Callable[[HFConfig], HybridConfig]
    parts: Mapping[str, str | Origin]
    unused: tuple[str, ...] = ()

    def stored(self, config: HybridConfig) -> str:
        """The blocks of `config` that are in the checkpoint."""
        return re.sub("[a-z]", "", config.pattern)

    def origins(self, config: HybridConfig, names: Iterable[str], prefix: str, stored: str) -> dict[str, Origin]:
        """Our parameter name -> its origin, for all parameters that are in the checkpoint, which has the blocks
        `stored`; `prefix` begins all its names but the head's."""
        blocks, layer_of, origins = config.layers(), match_layers(config.pattern, stored) or {}, {}
        for name in names:
            if not name.startswith("blocks.layers."):
                origins[name] = self.origin("" if name.startswith("head.") else prefix, name)
            elif (layer := layer_of.get(block := int(name.split(".")[2]))) is not None:
                origins[name] = self.origin(prefix, name.split(".", 3)[3], layer, blocks[block][0])
        return origins

    def origin(self, prefix: str, name: str, layer: int | None = None, letter: str = "") -> Origin:
        """The origin of one parameter: in a layer whose mixer has this letter, or outside of the layers."""
        if layer is not None:
            prefix, name = f"{prefix}layers.{layer}.", re.sub(r"^mixer\.", f"{letter}.", name)
        parts, words = {**_OUTSIDE, **self.parts}, name.split(".")
        n = next(n for n in range(len(words), 0, -1) if ".".join(words[:n]) in parts)
        part = parts[".".join(words[:n])]
        theirs, convert = (part, None) if isinstance(part, str) else part
        return Origin(prefix + ".".join([theirs, *words[n:]]), convert)


def match_layers(pattern: str, stored: str) -> dict[int, int] | None:
    """Block of `pattern` -> layer of the checkpoint, whose blocks are `stored`; the other blocks are inserted. None if
    the order differs or an inserted block has an MLP."""
    layer_of: dict[int, int] = {}
    for block, letter in enumerate(pattern):
        if stored[len(layer_of) : len(layer_of) + 1] == letter:
            layer_of[block] = len(layer_of)
        elif letter.isupper():
            return None
    return layer_of if len(layer_of) == len(stored) else None


_OUTSIDE = {"embedding": "embed_tokens", "norm": "norm", "blocks.pass_norm": "norm", "head": "lm_head"}
PRE_NORM = {
    "mixer_norm": "input_layernorm",
    **dict.fromkeys("AWJ", "self_attn"),
    "mlp_norm": "post_attention_layernorm",
    "mlp": "mlp",
}
