"""The config.json of a saved model, as transformers knows it."""

from typing import Any

from transformers import PreTrainedConfig

from lmsleep.model.folder import MODEL_TYPE, VERSION


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

    def to_dict(self) -> dict[str, Any]:
        """As in config.json, where a `Session` reads from `trained` how the model sleeps."""
        sleeps = {"n_passes": self.n_passes, "eviction": self.eviction}
        known = {name: value for name, value in sleeps.items() if value is not None}
        return super().to_dict() | {"trained": (self.trained or {}) | known}
