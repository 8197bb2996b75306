"""Saved models in transformers: after `import lmsleep.hf`, its Auto classes, `generate`, `pipeline` and what is built
on them, such as lm-evaluation-harness, read a folder of `save_pretrained` or `lmsleep export`.

    import lmsleep.hf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained("tuned"), AutoTokenizer.from_pretrained("tuned")

A model sleeps as it was trained to; `from_pretrained(..., n_passes=1)` keeps it awake.
"""

try:
    import transformers
except ImportError as error:
    raise ImportError(f'lmsleep.hf needs transformers: pip install "lmsleep[hf]" ({error})') from None
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lmsleep.hf.cache import CACHE, SleepCache
from lmsleep.hf.config import SleepConfig
from lmsleep.hf.model import SleepForCausalLM

__all__ = ["CACHE", "SleepCache", "SleepConfig", "SleepForCausalLM"]

transformers.AutoConfig.register(SleepConfig.model_type, SleepConfig)
transformers.AutoModelForCausalLM.register(SleepConfig, SleepForCausalLM)
# By which a Trainer knows that label smoothing shifts, and a pipeline whom it serves.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[SleepConfig.model_type] = SleepForCausalLM.__name__
