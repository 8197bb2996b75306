"""Saved models in transformers: after `import lmsleep.hf`, its Auto classes, `generate`, `pipeline` and what is built
on them, such as lm-evaluation-harness, read a folder of `save_pretrained` or `lmsleep export`.

    import lmsleep.hf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained("tuned"), AutoTokenizer.from_pretrained("tuned")

A model sleeps as it was trained to; `from_pretrained(..., n_passes=1)` keeps it awake.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from lmsleep.checks import require, typed
from lmsleep.hub import TOKENIZER, checkpoint_folder, push
from lmsleep.model import HybridConfig, HybridLM
from lmsleep.model.folder import MODEL_TYPE, VERSION, check_streamable, passes_of
from lmsleep.runtime import Session
from lmsleep.runtime.prompter import Prompter
from lmsleep.runtime.tokens import to_rows
from lmsleep.sleep import read_windows
from lmsleep.windows import SleepSettings

try:
    from transformers import AutoConfig, AutoModelForCausalLM, Cache, GenerationMixin, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutputWithPast
except ImportError as error:
    raise ImportError(f'lmsleep.hf needs transformers: pip install "lmsleep[hf]" ({error})') from None

# What transformers calls the cache of a call and of its outputs: since 5.24 `cache`.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class SleepConfig(PreTrainedConfig):
    """The config.json of a saved model.

    Args:
        model: the fields of its `HybridConfig`. trained: metadata of its training.
        n_passes, eviction: None: as it was trained; n_passes stays None where that is not stated.
    """

    model_type = MODEL_TYPE
    version: int = VERSION
    model: dict[str, Any] | None = None
    trained: dict[str, Any] | None = None
    n_passes: int | None = None
    eviction: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.model, self.trained = self.model or {}, self.trained or {}
        self.n_passes = self.trained.get("n_passes") if self.n_passes is None else self.n_passes
        self.eviction = self.eviction or self.trained.get("eviction", "hard")
        self.vocab_size, self.hidden_size = self.model.get("vocab_size"), self.model.get("d_model")
        self.num_hidden_layers = len(self.model.get("pattern", ""))
        kwargs["tie_word_embeddings"] = bool(self.model.get("tie_embeddings"))
        super().__post_init__(**kwargs)


class SleepCache(Cache):
    """A `Session` as the cache of transformers: it holds S and the window of every row, and sleeps on overflow."""

    def __init__(self, session: Session) -> None:
        super().__init__(layers=[])
        self.session, self.seen = session, 0

    def read(self, tokens: Tensor, mask: Tensor | None, last_only: bool) -> Tensor:
        """Reads tokens (B, n), without those behind, where mask (B, n) is False, so that padding does not shift the
        windows of a row: logits (B, m, V), m tokens in the longest row, or (B, 1, V) of each row's last one."""
        lengths = None if mask is None else mask.sum(1).tolist()
        if lengths and last_only and not self.seen and not all(lengths):
            raise ValueError(f"attention_mask must leave every row a token, got rows of {lengths}")
        rows = [row[:n] for row, n in zip(tokens, lengths, strict=True)] if lengths else tokens
        self.seen += tokens.shape[1]
        logits = self.session.feed(rows, last_only=last_only)
        return logits[:, None] if last_only else logits

    @property
    def is_linear(self) -> list[bool]:
        """False: a sequence begins with what was read, which `generate` then leaves out."""
        return [False]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of input read so far, padding included."""
        return self.seen

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Selects the rows `beam_idx` (B,), for beam search."""
        self.session.reorder(beam_idx.tolist())

    batch_select_indices = reorder_cache  # pyright: ignore[reportAssignmentType]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Goes on with every row several times."""
        self.session.repeat(repeats)

    def crop(self, tokens_to_remove: int) -> None:
        """Raises ValueError: a sleep cannot be undone. A copy, by `copy.deepcopy`, goes on from where it was made."""
        raise ValueError(f"a cache that sleeps cannot lose {tokens_to_remove} tokens: take a copy.deepcopy before")

    def reset(self) -> None:
        """Forgets all."""
        self.session.reset()
        self.seen = 0


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
            labels: (B, n), -100 where there is no loss; shifted inside, as always in transformers.
            use_cache: return a cache; then there is no gradient.
            logits_to_keep: number of last tokens, or places, whose logits are returned; 0: all, 1: each row's last.
            kwargs: `num_items_in_batch`, by which a `Trainer` that accumulates gradients divides the sum of the losses;
                others are ignored.

        Raises:
            ValueError: if there are no tokens, as where embeddings are given, or an argument does not fit them.
        """
        if input_ids is None:
            raise ValueError("input_ids must be given, which alone can be read, got None")
        shape = tuple(getattr(input_ids, "shape", ()))
        require(len(shape) == 2, "input_ids must be a tensor (B, n)", shape or type(input_ids).__name__)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        recent = mask[..., -input_ids.shape[1] :].bool()
        allowed = f"attention_mask must have the shape of input_ids {shape} or be wider"
        require(recent.shape == shape, allowed, tuple(mask.shape))
        # Padding is moved behind the tokens meanwhile.
        order = None if recent.all() else (~recent).to(torch.int8).argsort(dim=1, stable=True)
        tokens, mask = (input_ids, None) if order is None else (input_ids.gather(1, order), recent.gather(1, order))
        last_only = isinstance(logits_to_keep, int) and logits_to_keep == 1
        cache = self.cache_of(use_cache, past_key_values=past_key_values, cache=kwargs.get("cache"))
        if cache is not None:
            logits = cache.read(tokens, mask, last_only)
        else:
            to_rows(tokens, None, None, self.model)  # checks them
            settings = {"n_passes": self.config.n_passes, "eviction": self.config.eviction}
            logits = read_windows(self.model, tokens, mask=mask, **settings).logits
            if last_only and mask is not None:
                logits = logits[range(len(mask)), mask.sum(1) - 1][:, None]
        if order is not None and not last_only:
            logits = undo_order(logits, order)
        logits = logits[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
        loss = None
        if labels is not None:
            sizes = {"vocab_size": self.config.vocab_size, "num_items_in_batch": kwargs.get("num_items_in_batch")}
            loss = self.loss_function(logits, labels, **sizes)
        past: dict[str, Any] = {CACHE: cache}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **past)

    @classmethod
    def from_pretrained(cls, source: str | Path, *args: Any, config: Any = None, **kwargs: Any) -> "SleepForCausalLM":
        """Loads a folder or a name on the hub, as `HybridLM.from_pretrained`.

        Args:
            config: None: as the model was trained.
            kwargs: `n_passes`, `eviction`, `dtype` (or `torch_dtype`), `device_map` with one device, `revision`; others
                are ignored.

        Raises:
            ValueError: as `HybridLM.from_pretrained`, and for quantization or several devices.
        """
        for name in ("quantization_config", "load_in_8bit", "load_in_4bit"):
            require(not kwargs.get(name), f"{name} must be None", kwargs.get(name))
        source = f"{source}@{kwargs['revision']}" if kwargs.get("revision") not in (None, "main") else source
        folder = checkpoint_folder(source, ("*.json", "*.safetensors"), "source")
        settings = {name: kwargs[name] for name in ("n_passes", "eviction") if name in kwargs}
        config = config if isinstance(config, SleepConfig) else SleepConfig.from_pretrained(folder, **settings)
        # Older versions of transformers put a dtype that the Auto classes are given into the configuration.
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype", config.dtype))
        dtype = None if dtype == "auto" else getattr(torch, str(dtype), dtype)
        model = HybridLM.from_pretrained(folder, dtype, device_of(kwargs.get("device_map")))
        loaded = cls(config, model).eval()
        loaded.config.dtype = loaded.dtype
        loaded.name_or_path, loaded.folder = str(source), folder
        prompter = Prompter.from_task((config.trained or {}).get("task"), model.embedding.num_embeddings, folder=folder)
        if prompter and prompter.stop:
            loaded.generation_config.update(eos_token_id=list(prompter.stop), pad_token_id=prompter.stop[0])
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
        of them; with `push_to_hub` also uploads the folder to `repo_id`."""
        trained = {**self.config.trained, "n_passes": self.config.n_passes, "eviction": self.config.eviction}
        beside = [self.folder / name for name in TOKENIZER] if self.folder else []
        files = {path.name: path.read_text(encoding="utf-8") for path in beside if path.is_file()}
        model = self.model
        if state_dict is not None:
            model = model.config.build("meta")
            model.load_state_dict(self._own_weights(state_dict), assign=True)
            model._tie()
        model.save_pretrained(save_directory, trained=trained, files=files)
        if push_to_hub:
            push(save_directory, kwargs.get("repo_id") or Path(save_directory).name, kwargs.get("private"))

    def push_to_hub(  # pyright: ignore
        self, repo_id: str, *, private: bool | None = None, **kwargs: Any
    ) -> str:
        """Uploads the folder of `save_pretrained` to the Hugging Face hub and returns its address."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push(folder, repo_id, private)


def undo_order(logits: Tensor, order: Tensor) -> Tensor:
    """Undoes the `order` (B, n) on logits (B, m, V): (B, n, V), NaN where there are none."""
    whole = torch.nn.functional.pad(logits, (0, 0, 0, order.shape[1] - logits.shape[1]), value=torch.nan)
    return whole.gather(1, order.argsort(1)[:, :, None].expand_as(whole))


def device_of(device_map: Any) -> Any:
    """The only device of a device_map. Raises ValueError if it has several."""
    if device_map == "auto":
        return "cuda" if torch.cuda.is_available() else None
    devices = set(device_map.values()) if isinstance(device_map, dict) else {device_map}
    require(len(devices) == 1, "device_map must name one device", device_map)
    return devices.pop()


AutoConfig.register(MODEL_TYPE, SleepConfig)
AutoModelForCausalLM.register(SleepConfig, SleepForCausalLM)
