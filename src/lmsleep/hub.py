"""Checkpoint folders, local or on the Hugging Face hub, and the tokenizers in them."""

import json
import re
from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsleep.checks import check_file, first_line, read_object, require, text_of, typed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def checkpoint_folder(source: str | Path, files: Sequence[str], field: str) -> Path:
    """The local folder of a checkpoint, downloaded if it is a name on the hub.

    Args:
        source: a folder, or `owner/model`, optionally with `@revision`.
        files: patterns of the files to download.
        field: the caller's name of `source`, for messages.

    Raises:
        ValueError: if it is neither a folder nor a name that the hub knows.
    """
    path = Path(expanduser(typed(str | Path, source, field)))  # that of `Path` raises where there is no such user
    if path.is_dir() and source != "":  # which is the current folder for a Path
        return path
    if not HUB_NAME.fullmatch(str(source)):
        allowed = f"{field} must be a folder or a name on the Hugging Face hub (owner/model)"
        raise ValueError(f"{allowed}, and there is no folder {str(source)!r}")
    from huggingface_hub import snapshot_download

    name, _, revision = str(source).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except Exception as error:  # no network, no such model, no access: the hub's client has many kinds
        raise ValueError(
            f"{source} is no folder here and could not be had from the Hugging Face hub: {first_line(error)}"
        ) from None


def push(folder: str | Path, name: str, private: bool | None = None) -> str:
    """Uploads a folder as the model `name` (`owner/model`) of the Hugging Face hub, with the token of `hf auth login`.
    Returns the address of the model; `private` None is the owner's default."""
    from huggingface_hub import HfApi

    api = HfApi()
    repo = api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message="Upload a model that sleeps")
    return str(repo)


def read_tokenizer(path: Path) -> "Tokenizer":
    """Reads a tokenizer.json, without a length to which it would cut or fill texts. Raises ValueError if there is no
    such file, or it holds anything else."""
    from tokenizers import Tokenizer  # slow to import

    check_file(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_vocabulary(tokenizer: "Tokenizer", vocab_size: int) -> None:
    """Raises ValueError if a tokenizer has more tokens than a model."""
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    require(largest < vocab_size, f"tokenizer must have token ids below the model's vocab_size {vocab_size}", largest)


def open_tokenizer(source: str | Path) -> "Tokenizer":
    """The tokenizer of a tokenizer.json, a folder that holds one, or a name on the Hugging Face hub; `bytes`: a token
    for each byte of UTF-8, and `<eos>`. Raises ValueError if there is none."""
    if source != "bytes":
        path = Path(source)
        path = path if path.is_file() else tokenizer_folder(source) / TOKENIZER[0]
        check_file(path, "; tokenizer may be that of another folder, or bytes")
        return read_tokenizer(path)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # slow to import

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer


def named_eos(source: str | Path) -> str | None:
    """The end-of-sequence token that the tokenizer_config.json beside a tokenizer names; None if there is none."""
    named = tokenizer_config(source).get("eos_token")
    token = named.get("content") if isinstance(named, dict) else named
    return token if isinstance(token, str) else None


def tokenizer_files(source: str | Path, eos_token: str | None = None) -> dict[str, str]:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja (if there is one) as transformers reads them: name
    -> text. `source` as in `open_tokenizer`; `eos_token` None: that of the source."""
    eos_token = eos_token or named_eos(source)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"pad_token": eos_token} if eos_token else {}
    config |= tokenizer_config(source)
    config |= {"eos_token": eos_token} if eos_token else {}
    texts = {TOKENIZER[0]: open_tokenizer(source).to_str(), TOKENIZER[1]: json.dumps(config, indent=2) + "\n"}
    template = template_file(source)
    return texts if template is None else texts | {TOKENIZER[2]: template}


def tokenizer_folder(source: str | Path) -> Path:
    """The folder of a tokenizer."""
    if Path(source).is_file():
        return Path(source).parent
    return checkpoint_folder(source, TOKENIZER, "tokenizer")


def tokenizer_config(source: str | Path) -> dict[str, Any]:
    """The tokenizer_config.json beside a tokenizer; empty if there is none."""
    if source == "bytes":
        return {"eos_token": "<eos>"}
    path = tokenizer_folder(source) / "tokenizer_config.json"
    return read_object(path) if path.is_file() else {}


def template_file(source: str | Path) -> str | None:
    """The chat_template.jinja beside a tokenizer; None if there is none."""
    path = None if source == "bytes" else tokenizer_folder(source) / TOKENIZER[2]
    return text_of(path) if path and path.is_file() else None
