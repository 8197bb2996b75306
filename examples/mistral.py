"""A family of pretrained models of one's own in one file: Mistral, as transformers writes it, with inserted Jet layers.

PYTHONPATH=examples LMSLEEP_PLUGINS=mistral lmsleep finetune --model FOLDER --data train.jsonl --out tuned
"""

from lmsleep.model import HybridConfig
from lmsleep.pretrained import register_backbone
from lmsleep.pretrained.backbone import PRE_NORM, Backbone, HFConfig, base_fields, insert_jets, middle_loop, pattern_of


def hybrid_config(hf: HFConfig) -> HybridConfig:
    """The model of a config.json, whose every layer slides where it has a `sliding_window`; a sleep repeats the middle
    half of the blocks. Raises ValueError if a key is missing or has a value that our model does not support."""
    window = hf.count("sliding_window") if hf.values.get("sliding_window") is not None else None
    pattern = pattern_of(hf, {"full": "A", "sliding": "W"}, lambda layer: "sliding" if window else "full")
    fields = insert_jets(base_fields(hf), pattern)
    return HybridConfig(**fields, loop=middle_loop(fields["pattern"]), sliding_window=window)


register_backbone("mistral", Backbone(hybrid_config, PRE_NORM))  # its tensors have the names of Llama's
