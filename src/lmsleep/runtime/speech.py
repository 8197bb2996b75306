"""Text in and out of a session: what it reads becomes tokens, what it says becomes text while it comes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from lmsleep.hub import QUESTION, check_integer, check_vocabulary, named_eos, open_tokenizer, require

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Stop = int | str | Iterable[int | str] | None


@dataclass(frozen=True)
class Speech:
    """How a model reads text and is asked.

    Args:
        tokenizer: nothing is put around a text: what a model wants there, write into it.
        question: what stands around a question, with `{question}` in its place.
        stop: tokens that end an answer.
    """

    tokenizer: "Tokenizer"
    question: str = QUESTION
    stop: tuple[int, ...] = ()

    @classmethod
    def of(cls, given: Any, vocab_size: int) -> "Speech":
        """That of a tokenizer of `tokenizers` or transformers, of a folder, file or name, or of `bytes`, which also say
        what ends an answer.

        Raises:
            ValueError: if there is no such tokenizer, or it has more tokens than the model.
        """
        if isinstance(given, str | Path):
            tokenizer = open_tokenizer(given)
            end = tokenizer.token_to_id(named_eos(given) or "")
            given = cls(tokenizer, stop=() if end is None else (end,))
        elif not isinstance(given, cls):
            given = cls(getattr(given, "backend_tokenizer", given))
        if not hasattr(given.tokenizer, "token_to_id"):
            raise ValueError(f"tokenizer must be one of `tokenizers`, a folder or 'bytes', got {given.tokenizer!r:.99}")
        check_vocabulary(given.tokenizer, vocab_size)
        return given

    @classmethod
    def of_folder(cls, folder: Path, trained: Mapping[str, Any], vocab_size: int) -> "Speech | None":
        """That of a saved model and what is known of its training; None: it has no tokenizer."""
        task = trained.get("task")
        said = dict(task.get("init_args") or {}) if isinstance(task, Mapping) else {}
        source = folder if (folder / "tokenizer.json").is_file() else said.get("tokenizer")
        if source != "bytes" and source != folder:
            return None
        speech = cls.of(source, vocab_size)
        question = trained.get("asking", said.get("question", QUESTION))
        end = speech.tokenizer.token_to_id(str(said.get("eos_token") or ""))
        return cls(speech.tokenizer, str(question), speech.stop if end is None else (end,))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. Raises ValueError if it has half a surrogate pair."""
        text.encode()
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def asked(self, question: str) -> str:
        """A question as the model is asked it. Raises ValueError if it learned with the question before the text."""
        allowed = "question must be empty where it was read before the text in training: feed it, then the text"
        require(QUESTION in self.question or not question.strip(), allowed, question)
        return self.question.replace(QUESTION, question)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        return self.tokenizer.decode(list(tokens))


def encoded(tokens: Any, speech: Speech | None) -> Any:
    """What is fed, with the tokens of a text, or of a list of texts, in its place.

    Raises:
        ValueError: if it is text and there is no tokenizer.
    """
    texts = [tokens] if isinstance(tokens, str) else tokens
    if not (isinstance(texts, Sequence) and len(texts) and all(isinstance(text, str) for text in texts)):
        return tokens
    if speech is None:
        raise ValueError(f"tokens must be integers where the session has no tokenizer, got text {texts[0]!r:.99}")
    return speech.encode(tokens) if isinstance(tokens, str) else [speech.encode(text) for text in texts]


class Stops(NamedTuple):
    """What ends an answer: one of these tokens, or one of these texts in it."""

    ids: frozenset[int] = frozenset()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, stop: Stop, vocab_size: int, speech: Speech | None) -> "Stops":
        """Raises ValueError if one is no token, or an empty text, or a text where there is no tokenizer."""
        given: Any = stop.tolist() if isinstance(stop, Tensor | np.ndarray) else stop
        several = isinstance(given, Iterable) and not isinstance(given, str)
        given = [] if given is None else list(given) if several else [given]
        texts = tuple(one for one in given if isinstance(one, str))
        if texts and (speech is None or not all(texts)):
            allowed = "texts of a character or more" if speech else "tokens where the session has no tokenizer"
            raise ValueError(f"stop must be {allowed}, got {texts[0]!r}")
        ids = [one for one in given if not isinstance(one, str)]
        for one in ids:
            check_integer("stop", one, 0, vocab_size - 1)
        return cls(frozenset(map(int, ids)), texts)


class Answer:
    """The new tokens of a row, and their text if somebody wants it, up to what ends it."""

    def __init__(self, stops: Stops, speech: Speech | None) -> None:
        self.stops, self.speech = stops, speech
        self.tokens: list[int] = []
        self.text, self.ended = "", False

    def add(self, token: int) -> None:
        """A new token; what comes after the end is left out."""
        self.ended = self.ended or token in self.stops.ids
        if self.ended:
            return
        self.tokens.append(token)
        if self.speech:
            self.text = self.speech.decode(self.tokens)
            ends = [place for stop in self.stops.texts if (place := self.text.find(stop)) >= 0]
            if ends:
                self.text, self.ended = self.text[: min(ends)], True

    @property
    def settled(self) -> str:
        """The text that no further token can change: not half a character, nor what may become the text of a stop."""
        if self.ended:
            return self.text
        text = self.text.rstrip("\N{REPLACEMENT CHARACTER}")
        stops = self.stops.texts
        held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return text[: len(text) - held]


def pieces(answer: Answer, steps: Iterator[Tensor]) -> Iterator[str]:
    """The text of an answer, piece by piece, while `steps` add its tokens."""
    given = 0
    for _ in steps:
        if len(text := answer.settled) > given:
            yield text[given:]
            given = len(text)
    if len(answer.text) > given:
        yield answer.text[given:]


def printable(text: str) -> str:
    """A text without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
