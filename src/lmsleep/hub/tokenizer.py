"""Tokenizer files: reading, and writing them as transformers reads them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsleep.hub import check_file, checkpoint_folder, read_object, require

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def read_tokenizer(path: Path) -> "Tokenizer":
    """Reads a tokenizer.json. Raises ValueError if there is no such file, or it holds anything else."""
    from tokenizers import Tokenizer  # slow to import

    check_file(path)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from None


def check_vocabulary(tokenizer: "Tokenizer", vocab_size: int, name: object = "tokenizer") -> None:
    """Raises ValueError, which says `name`, if a tokenizer has more tokens than a model."""
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    require(largest < vocab_size, f"{name} must have token ids below the model's vocab_size {vocab_size}", largest)


def open_tokenizer(source: str | Path) -> "Tokenizer":
    """The tokenizer of a tokenizer.json, a folder that holds one, or a name on the Hugging Face hub; `bytes`: a token
    for each byte of UTF-8, and `<eos>`. Raises ValueError if there is none."""
    if source != "bytes":
        path = Path(source)
        return read_tokenizer(path if path.is_file() else tokenizer_folder(source) / "tokenizer.json")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # slow to import

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer


def named_eos(source: str | Path) -> str | None:
    """The end-of-sequence token in the tokenizer_config.json beside a tokenizer; None if there is none."""
    if source == "bytes":
        return "<eos>"
    named = tokenizer_config(source).get("eos_token")
    token = named.get("content") if isinstance(named, dict) else named
    return token if isinstance(token, str) else None


def default_eos(source: str) -> str:
    """As `named_eos`; raises ValueError if there is none."""
    if (token := named_eos(source)) is None:
        raise ValueError(f"eos_token must be given, since no tokenizer_config.json of {source} names it")
    return token


def tokenizer_files(source: str | Path, eos_token: str | None = None) -> dict[str, str]:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja (if there is one) as transformers reads them: name
    -> text. `source` as in `open_tokenizer`; `eos_token` None: that of the source."""
    eos_token = eos_token or named_eos(source)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"pad_token": eos_token} if eos_token else {}
    config |= {} if source == "bytes" else tokenizer_config(source)
    config |= {"eos_token": eos_token} if eos_token else {}
    texts = {TOKENIZER[0]: open_tokenizer(source).to_str(), TOKENIZER[1]: json.dumps(config, indent=2) + "\n"}
    template = None if source == "bytes" else template_file(source)
    return texts if template is None else texts | {TOKENIZER[2]: template}


def tokenizer_folder(source: str | Path) -> Path:
    """The folder of a tokenizer."""
    if Path(source).is_file():
        return Path(source).parent
    return checkpoint_folder(source, TOKENIZER, "tokenizer")


def tokenizer_config(source: str | Path) -> dict[str, Any]:
    """The tokenizer_config.json beside a tokenizer; empty if there is none."""
    path = tokenizer_folder(source) / "tokenizer_config.json"
    return read_object(path) if path.is_file() else {}


def template_file(source: str | Path) -> str | None:
    """The chat_template.jinja beside a tokenizer; None if there is none."""
    path = tokenizer_folder(source) / TOKENIZER[2]
    return path.read_text(encoding="utf-8") if path.is_file() else None
