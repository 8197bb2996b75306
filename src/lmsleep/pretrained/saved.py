"""A model of our own to start from, as `HybridLM.save_pretrained` writes it: every weight under its own name.

Blocks without MLP may be put in between its blocks: a transformer saved as AAAA becomes AjAA.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from lmsleep.hub import typed
from lmsleep.model import HybridConfig
from lmsleep.model.folder import MODEL_TYPE, VERSION
from lmsleep.pretrained.backbone import Backbone, HFConfig, Origin, layers_of


def hybrid_config(hf: HFConfig) -> HybridConfig:
    """The model of a config.json.

    Raises:
        ValueError: if it is of another version, or has no such model.
    """
    hf.demand("version", VERSION)
    return replace(typed(HybridConfig, hf.take("model", dict), f"model in {hf.source}"), window_size=None)


class Saved(Backbone):
    def stored(self, config: HybridConfig) -> str:
        return config.pattern

    def origins(
        self, config: HybridConfig, names: Iterable[str], prefix: str = "", stored: str | None = None
    ) -> dict[str, Origin]:
        layer_of, found = layers_of(config.pattern, stored or config.pattern) or {}, {}
        for name in names:
            block = re.match(r"blocks\.layers\.(\d+)", name)
            if block is None:
                found[name] = Origin(name)
            elif (layer := layer_of.get(int(block[1]))) is not None:
                found[name] = Origin(f"blocks.layers.{layer}{name[block.end() :]}")
        return found


SAVED = {MODEL_TYPE: Saved(hybrid_config, {})}
