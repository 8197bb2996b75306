"""Text to token ids and back: with any tokenizer.json, or a vocabulary of whole words and numbers."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lmsleep.hub import read_tokenizer
from lmsleep.tasks.gsm.world import WORLDS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROMPT_END = "\nAnswer: "
_WORD = re.compile(r"[A-Za-z]+|\d+|[^\sA-Za-z\d]")
_JOINERS = "equals plus times the sum of the difference between and , . ? : Question Problem Answer"
_PROBE = "Question: How many are 1208?\nProblem: The sum of 3 and 45. X, Y\nAnswer: 67890"


class _Vocabulary(ABC):
    """Base of the encoders: what follows from the ids of all tokens."""

    @cached_property
    @abstractmethod
    def ids(self) -> dict[str, int]:
        """Token -> id."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the vocabulary: tokens and their ids."""
        return hashlib.sha256(json.dumps(sorted(self.ids.items())).encode()).hexdigest()

    @cached_property
    def vocab_size(self) -> int:
        return max(self.ids.values()) + 1


@dataclass(frozen=True)
class WordVocabulary(_Vocabulary):
    """One token for each word, punctuation mark and number that the given templates can emit.

    Ids: 0 padding, 1 end of sequence, then the words in alphabetical order, then the numbers 0 to `max_value`. A number
    is one token, so that an answer is one token and the end of sequence.
    """

    templates: tuple[str, ...]
    max_value: int = 1000

    PAD, EOS = "<pad>", "<eos>"
    pad_id, eos_id = 0, 1

    @property
    def name(self) -> str:
        return f"words of {', '.join(sorted(set(self.templates)))}, numbers to {self.max_value}"

    @cached_property
    def ids(self) -> dict[str, int]:
        texts = [_JOINERS, *(text for name in set(self.templates) for text in ("The", *WORLDS[name].texts()))]
        words = sorted({word for text in texts for word in _WORD.findall(text)})
        numbers = [str(n) for n in range(self.max_value + 1)]
        return {token: i for i, token in enumerate([self.PAD, self.EOS, *words, *numbers])}

    @cached_property
    def _tokens(self) -> list[str]:
        return list(self.ids)

    def _lookup(self, text: str) -> list[int]:
        try:
            return [self.ids[word] for word in _WORD.findall(text)]
        except KeyError as error:
            raise ValueError(f"the vocabulary ({self.name}) has no word {error.args[0]!r}") from None

    def encode(self, prompt: str, answer: int) -> tuple[list[int], int]:
        """Token ids of prompt, answer and end of sequence, and the position of the first answer token."""
        ids = self._lookup(prompt)
        return [*ids, *self._lookup(str(answer)), self.eos_id], len(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Words separated by spaces, none before punctuation; padding and end of sequence are left out."""
        words = " ".join(self._tokens[i] for i in ids if i > self.eos_id)
        return re.sub(r" ([.,?:])", r"\1", words)

    def length(self, piece: str) -> int:
        """Tokens that a sentence adds to a prompt."""
        return len(_WORD.findall(piece))


@dataclass(frozen=True)
class TokenizerFile(_Vocabulary):
    """A tokenizer of the `tokenizers` library in a local tokenizer.json.

    Args:
        path: the file.
        eos_token: the token that ends a sequence; it serves as padding too, which is masked anyway.

    Raises:
        ValueError: if the file is no tokenizer, lacks `eos_token`, or does not decode what it encodes.
    """

    path: str
    eos_token: str = "<|endoftext|>"

    def __post_init__(self) -> None:
        if self.eos_token not in self.ids:
            raise ValueError(f"eos_token {self.eos_token!r} is not in the vocabulary of {self.path}")
        text = self.decode(self._tokenizer.encode(_PROBE, add_special_tokens=False).ids)
        if text.split() != _PROBE.split():
            raise ValueError(f"tokenizer {self.path} does not keep the text: {_PROBE!r} comes back as {text!r}")

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        return read_tokenizer(Path(self.path))

    @cached_property
    def ids(self) -> dict[str, int]:
        return self._tokenizer.get_vocab()

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def pad_id(self) -> int:
        return self.eos_id

    @property
    def eos_id(self) -> int:
        return self.ids[self.eos_token]

    def encode(self, prompt: str, answer: int) -> tuple[list[int], int]:
        """As `WordVocabulary.encode`; prompt and answer are encoded as one text. The first answer token is the one with
        the first digit, which may include the space, as " 12" of GPT-2."""
        encoding = self._tokenizer.encode(prompt + str(answer), add_special_tokens=False)
        start = encoding.char_to_token(len(prompt))
        if start is None:
            raise ValueError(f"tokenizer {self.path} has no token for the answer {answer}")
        return [*encoding.ids, self.eos_id], start

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([i for i in ids if i != self.eos_id], skip_special_tokens=False)

    def length(self, piece: str) -> int:
        """Tokens that a sentence adds to a prompt: a cached sum over words, exact if no token spans two words."""
        return sum(map(self._word_length, piece.split()))

    @cached_property
    def _word_length(self) -> Callable[[str], int]:
        def count(text: str) -> int:
            return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

        # After another word: at the start of a text, tokenizers like Llama 2's add a space.
        return cache(lambda word: count(f". {word}") - count("."))


Encoder = WordVocabulary | TokenizerFile
