"""A `HybridLM` as a model of transformers."""

import copy
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import GENERATION_CONFIG_NAME, can_return_tuple

from lmsleep.checks import require, typed
from lmsleep.hf.arguments import check_arguments, check_lengths, device_of, mask_of, undo_order
from lmsleep.hf.cache import CACHE, SleepCache
from lmsleep.hf.config import SleepConfig
from lmsleep.hub import TOKENIZER, checkpoint_folder, push
from lmsleep.model import HybridConfig, HybridLM
from lmsleep.model.trained import check_streamable, passes_of
from lmsleep.runtime import Session
from lmsleep.runtime.prompter import Prompter
from lmsleep.runtime.tokens import to_rows
from lmsleep.sleep import read_windows
from lmsleep.windows import IGNORE, SleepSettings

# What `from_pretrained` of transformers obeys and that of `HybridLM` cannot.
REFUSED = ("quantization_config", "load_in_8bit", "load_in_4bit", "gguf_file")
REFUSED += ("state_dict", "key_mapping", "subfolder", "variant", "output_loading_info")


class SleepForCausalLM(PreTrainedModel, GenerationMixin):
    """A `HybridLM` in transformers. Every window that overflows sleeps, with loss or without. Warns where the
    configuration says no N: the model then stays awake."""

    config_class = SleepConfig
    base_model_prefix = "model"
    _input_embed_layer = "embedding"  # of the model
    folder: Path | None = None  # that it was loaded from
    _is_stateful = True  # a sleep cannot be undone, as speculative decoding would

    def __init__(self, config: SleepConfig, model: HybridLM | None = None) -> None:
        super().__init__(config)
        check_streamable(config.trained or {})
        config.n_passes = passes_of({}, config.n_passes, "the configuration")
        SleepSettings(config.n_passes, config.eviction)  # pyright: ignore[reportArgumentType] (checks them)
        self.model = model or typed(HybridConfig, config.model, "model in the configuration").build()
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing to do: `HybridLM` initialises its weights."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `forward` makes its own

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError: transformers would change the embedding and not what else knows its size."""
        raise ValueError(f"the vocabulary must stay of {self.config.vocab_size} tokens")

    def new_cache(self) -> SleepCache:
        """An empty cache."""
        return SleepCache(Session(self.model, self.config.n_passes, self.config.eviction))

    def cache_of(self, use_cache: bool | None, **given: Any) -> SleepCache | None:
        """The cache that a call is given, by one of two names, or a new one where it is to use one."""
        caches = {name: cache for name, cache in given.items() if cache is not None}
        require(len(caches) < 2, "past_key_values and cache must not both be given: they are one", "both")
        if not caches:
            return self.new_cache() if use_cache else None
        ((name, cache),) = caches.items()
        known, kind = isinstance(cache, SleepCache), type(cache).__name__
        require(known, f"{name} must be of an earlier call or new_cache()", kind)
        return cache

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: SleepCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, n, V) of tokens (B, n).

        Args:
            attention_mask: (B, n), or (B, m + n) with the m tokens in the cache; 0 for padding, on either side.
            past_key_values: the cache to continue from, which may be given as `cache` too; it is changed in place.
            labels: (B, n), -100 where there is no loss; shifted inside, as always in transformers, but that padding
                predicts nothing: not the first token of a row padded on the left.
            use_cache: return a cache; then there is no gradient.
            logits_to_keep: number of last tokens, or places, whose logits are returned; 0: all, 1: each row's last.
            kwargs: `num_items_in_batch`, by which a `Trainer` that accumulates gradients divides the sum of the losses
                (it counts first tokens on the left of which is padding); others are ignored.

        Raises:
            ValueError: if there are no tokens, as where embeddings are given, an argument does not fit them, several
                rows are packed into one, or hidden states or attentions are asked for.
        """
        if input_ids is None:
            raise ValueError("input_ids must be given, which alone can be read, got None")
        recent = mask_of(input_ids, attention_mask)
        check_arguments(recent, labels, logits_to_keep, kwargs)
        # Padding is moved behind the tokens meanwhile.
        order = None if recent.all() else (~recent).to(torch.int8).argsort(dim=1, stable=True)
        tokens, mask = (input_ids, None) if order is None else (input_ids.gather(1, order), recent.gather(1, order))
        last_only = isinstance(logits_to_keep, int) and logits_to_keep == 1
        cache = self.cache_of(use_cache, past_key_values=past_key_values, cache=kwargs.get("cache"))
        logits = self.read(tokens, mask, last_only) if cache is None else cache.read(tokens, mask, last_only)
        loss = None
        if labels is not None:  # in the order of reading, where a token follows the one before it and no padding
            labels = labels if order is None else labels.gather(1, order)
            loss = self.next_token_loss(logits, labels, kwargs.get("num_items_in_batch"))
        if order is not None and not last_only:
            logits = undo_order(logits, order, recent)
        logits = logits[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
        past: dict[str, Any] = {CACHE: cache}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **past)

    def read(self, tokens: Tensor, mask: Tensor | None, last_only: bool) -> Tensor:
        """As `SleepCache.read`, of whole sequences and with gradient."""
        to_rows(tokens, None, None, self.model)  # checks them
        settings = {"n_passes": self.config.n_passes, "eviction": self.config.eviction}
        logits = read_windows(self.model, tokens, mask=mask, **settings).logits
        if not last_only or mask is None:
            return logits
        check_lengths(mask.sum(1).tolist())
        return logits[range(len(mask)), mask.sum(1) - 1][:, None]

    def next_token_loss(self, logits: Tensor, labels: Tensor, n_items: Any) -> Tensor:
        """The loss of logits (B, m, V) against the labels (B, n) of the tokens behind theirs; the sum over `n_items` if
        that is given."""
        following = pad(labels, (0, 1), value=IGNORE)[:, 1 : logits.shape[1] + 1].contiguous()
        sizes = {"vocab_size": self.config.vocab_size, "num_items_in_batch": n_items}
        return self.loss_function(logits, labels, shift_labels=following, **sizes)

    @classmethod
    def from_pretrained(cls, source: str | Path, *args: Any, config: Any = None, **kwargs: Any) -> "SleepForCausalLM":
        """Loads a folder or a name on the hub, as `HybridLM.from_pretrained`.

        Args:
            config: None: as the model was trained.
            kwargs: `n_passes` and `eviction`, also beside a config; `dtype` (or `torch_dtype`), `device_map` with one
                device, `revision`; others are ignored.

        Raises:
            ValueError: as `HybridLM.from_pretrained`, and for quantization, several devices, weights from elsewhere or
                another architecture in the config.
        """
        for name in REFUSED:
            if kwargs.get(name):
                raise ValueError(f"{name} must be None, got {kwargs[name]!r:.99}")
        source = f"{source}@{kwargs['revision']}" if kwargs.get("revision") not in (None, "main") else source
        folder = checkpoint_folder(source, ("*.json", "*.safetensors"), "source")
        saved = SleepConfig.from_pretrained(folder)
        config = saved if config is None else copy.copy(config)
        require(isinstance(config, SleepConfig), "config must be a SleepConfig or None", config)
        require(config.model == saved.model, f"model of config must be that of {source}, {saved.model}", config.model)
        for name in ("n_passes", "eviction"):
            setattr(config, name, getattr(config, name) if kwargs.get(name) is None else kwargs[name])
        # Older versions of transformers put a dtype that the Auto classes are given into the configuration.
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype", config.dtype))
        dtype = None if dtype == "auto" else getattr(torch, str(dtype), dtype)
        model = HybridLM.from_pretrained(folder, dtype, device_of(kwargs.get("device_map")))
        loaded = cls(config, model).eval()
        loaded.config.dtype = loaded.dtype
        loaded.name_or_path, loaded.folder = str(source), folder
        prompter = Prompter.from_task((config.trained or {}).get("task"), model.vocab_size, folder=folder)
        if prompter and prompter.stop:
            loaded.generation_config.update(eos_token_id=list(prompter.stop), pad_token_id=prompter.stop[0])
        if (folder / GENERATION_CONFIG_NAME).is_file():
            loaded.generation_config = GenerationConfig.from_pretrained(folder)
        adapter = dict(kwargs.get("adapter_kwargs") or {})
        if path := adapter.pop("_adapter_model_path", None):  # an Auto class was given the folder of an adapter
            loaded.load_adapter(path, adapter_kwargs=adapter)
        return loaded

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As of every module, but also takes the weights of a saved folder, in which the names of the `HybridLM` stand
        and tied ones once, as a `Trainer` does that goes on from a checkpoint."""
        return self.model.load_state_dict(self._own_weights(state_dict), *args, **kwargs)

    def _own_weights(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The weights of the `HybridLM` by its names."""
        weights = {name.removeprefix("model."): value for name, value in state_dict.items()}
        if self.model.config.tie_embeddings and "embedding.weight" in weights:
            weights.setdefault("head.weight", weights["embedding.weight"])
        return weights

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        save_directory: str | Path,
        *,
        state_dict: Mapping[str, Any] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As `HybridLM.save_pretrained`; `state_dict` in place of these weights, as where several processes have parts
        of them; with `push_to_hub` also uploads the folder to `repo_id`. Of a model with adapters of peft, these alone,
        as always in transformers."""
        if self._hf_peft_config_loaded:
            given = None if state_dict is None else dict(state_dict)
            super().save_pretrained(save_directory, state_dict=given, push_to_hub=push_to_hub, **kwargs)
            return
        beside = [self.folder / name for name in TOKENIZER] if self.folder else []
        files = {path.name: path.read_text(encoding="utf-8") for path in beside if path.is_file()}
        files[GENERATION_CONFIG_NAME] = self.generation_config.to_json_string()
        model = self.model
        if state_dict is not None:
            model = model.config.build("meta")
            model.load_state_dict(self._own_weights(state_dict), assign=True)
            model._tie()
        model.save_pretrained(save_directory, trained=self.config.to_dict()["trained"], files=files)
        if push_to_hub:
            push(save_directory, kwargs.get("repo_id") or Path(save_directory).name, kwargs.get("private"))

    def push_to_hub(  # pyright: ignore
        self, repo_id: str, *, private: bool | None = None, **kwargs: Any
    ) -> str:
        """Uploads the folder of `save_pretrained` to the Hugging Face hub and returns its address."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push(folder, repo_id, private)
