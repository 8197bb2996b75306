"""What a family of pretrained models has to say about itself, and the reading of its config.json."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lmsleep.hub import read_object
from lmsleep.model import HybridConfig

T = TypeVar("T")


class HFConfig:
    """A config.json in the format of Hugging Face transformers, whose keys are asked for loudly."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = values, source

    @classmethod
    def read(cls, folder: Path) -> "HFConfig":
        """Raises ValueError if the folder has no readable config.json."""
        path = folder / "config.json"
        return cls(read_object(path), str(path))

    def take(self, name: str, kind: Callable[[Any], T]) -> T:
        """The value of a key, converted by `kind`. Raises ValueError if it is absent or does not convert."""
        value = self.values.get(name)
        try:
            if value is None:
                raise TypeError
            return kind(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} in {self.source} must be a {kind.__name__}, got {value!r}") from None

    def section(self, *names: str) -> "HFConfig":
        """A nested object. Raises ValueError if it is absent."""
        inner = self
        for name in names:
            inner = HFConfig(inner.take(name, dict), f"{name} of {inner.source}")
        return inner

    def demand(self, name: str, *allowed: Any) -> None:
        """Raises ValueError unless the key is absent or has one of the values that our model can express."""
        if name in self.values and self.values[name] not in allowed:
            choices = " or ".join(repr(value) for value in allowed)
            raise ValueError(f"{name} in {self.source} must be {choices}, got {self.values[name]!r}")


def transformer(hf: HFConfig) -> dict[str, Any]:
    """Fields of `HybridConfig` that a transformer of the family of Qwen2 has under the same keys.

    Raises:
        ValueError: if a key is missing or says what our model cannot express.
    """
    hf.demand("hidden_act", "silu")
    hf.demand("rope_scaling", None)
    hf.demand("attention_dropout", 0, 0.0)
    return {
        "vocab_size": hf.take("vocab_size", int),
        "d_model": hf.take("hidden_size", int),
        "n_heads": hf.take("num_attention_heads", int),
        "n_kv_heads": hf.take("num_key_value_heads", int),
        "head_dim": hf.take("head_dim", int) if "head_dim" in hf.values else None,
        "mlp_dim": hf.take("intermediate_size", int),
        "rope_theta": hf.take("rope_theta", float),
        "norm_eps": hf.take("rms_norm_eps", float),
        "tie_embeddings": hf.take("tie_word_embeddings", bool),
    }


@dataclass(frozen=True)
class Backbone:
    """A family of pretrained models.

    The blocks with an MLP are the checkpoint's layers in their order; blocks without one are inserted, and keep the
    weights they were initialised with.

    Args:
        config: from config.json to ours; window_size is left open.
        parts: our name of a part of a block -> the checkpoint's.
        unused: tensors of the checkpoint that we know and do not need.
    """

    config: Callable[[HFConfig], HybridConfig]
    parts: Mapping[str, str]
    unused: frozenset[str] = frozenset()

    def key_map(self, config: HybridConfig, names: Iterable[str]) -> dict[str, str]:
        """Our parameter name -> the checkpoint's, for all parameters that come from the checkpoint."""
        taken = [i for i, (_, has_mlp) in enumerate(config.layers()) if has_mlp]
        layer_of = {ours: theirs for theirs, ours in enumerate(taken)}
        keys = {}
        for name in names:
            if not name.startswith("blocks.layers."):
                keys[name] = _OUTSIDE[name]
            elif (layer := layer_of.get(int(name.split(".")[2]))) is not None:
                part, rest = name.split(".", 3)[3].split(".", 1)
                keys[name] = f"model.layers.{layer}.{self.parts[part]}.{rest}"
        return keys


_OUTSIDE = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "blocks.pass_norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
