"""Any tokenizer.json, or bytes, for the texts that a user brings."""

from pathlib import Path
from typing import TYPE_CHECKING

from lmsleep.hub import checkpoint_folder, read_object, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def open_tokenizer(source: str) -> "Tokenizer":
    """The tokenizer of `Text.tokenizer`. Raises ValueError if there is none."""
    if source != "bytes":
        return read_tokenizer(Path(source) if Path(source).is_file() else _folder(source) / "tokenizer.json")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # slow to import

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer


def default_eos(source: str) -> str:
    """The token that ends a text. Raises ValueError if nothing names it."""
    if source == "bytes":
        return "<eos>"
    path = (Path(source).parent if Path(source).is_file() else _folder(source)) / "tokenizer_config.json"
    named = read_object(path).get("eos_token") if path.is_file() else None
    token = named.get("content") if isinstance(named, dict) else named
    if not isinstance(token, str):
        raise ValueError(f"eos_token must be given, since no tokenizer_config.json of {source} names it")
    return token


def _folder(source: str) -> Path:
    return checkpoint_folder(source, ["tokenizer.json", "tokenizer_config.json"], "tokenizer")
