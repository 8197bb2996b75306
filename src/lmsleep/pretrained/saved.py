"""A model of `HybridLM.save_pretrained` to start from. Blocks without MLP may be inserted: AAAA becomes AjAAA."""

from dataclasses import replace

from lmsleep.checks import typed
from lmsleep.model import HybridConfig
from lmsleep.model.folder import MODEL_TYPE, VERSION
from lmsleep.pretrained.backbone import Backbone, HFConfig, Origin


def hybrid_config(hf: HFConfig) -> HybridConfig:
    """The model of a config.json. Raises ValueError if it has another version or no such model."""
    hf.expect("version", VERSION)
    return replace(typed(HybridConfig, hf.take("model", dict), f"model in {hf.source}"), window_size=None)


class Saved(Backbone):
    """The family of our own models: all blocks are stored, under our names."""

    def stored(self, config: HybridConfig) -> str:
        return config.pattern

    def origin(self, prefix: str, name: str, layer: int | None = None, letter: str = "") -> Origin:
        return Origin(name if layer is None else f"blocks.layers.{layer}.{name}")


SAVED = {MODEL_TYPE: Saved(hybrid_config, {})}
