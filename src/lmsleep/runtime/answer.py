"""A generated answer: its tokens, their text, and what ends it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lmsleep.checks import check_integer
from lmsleep.runtime.prompter import Prompter

Stop = int | str | Iterable[int | str] | None


class StopCriteria(NamedTuple):
    """What ends an answer: one of the tokens `ids`, or one of `texts` in it."""

    ids: frozenset[int] = frozenset()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, stop: Stop, vocab_size: int, prompter: Prompter | None) -> "StopCriteria":
        """From the argument `stop`. Raises ValueError if one is no token, an empty text, or a text without
        tokenizer."""
        given: Any = stop.tolist() if isinstance(stop, Tensor | np.ndarray) else stop
        if given is None:
            given = []
        several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
        given = list(given) if several else [given]
        texts = tuple(one for one in given if isinstance(one, str))
        if texts and (prompter is None or not all(texts)):
            allowed = "texts of a character or more" if prompter else "tokens where the session has no tokenizer"
            raise ValueError(f"stop must be {allowed}, got {texts[0]!r}")
        ids = [one for one in given if not isinstance(one, str)]
        for one in ids:
            check_integer("stop", one, 0, vocab_size - 1)
        return cls(frozenset(map(int, ids)), texts)


class Answer:
    """The new tokens of a row, and their text if `prompter` is given, up to what ends it."""

    def __init__(self, stops: StopCriteria, prompter: Prompter | None) -> None:
        self.stops, self.prompter = stops, prompter
        self.tokens: list[int] = []
        self.text, self.ended = "", False

    def add(self, token: int) -> None:
        """Adds a token, unless the answer has ended."""
        self.ended = self.ended or token in self.stops.ids
        if self.ended:
            return
        self.tokens.append(token)
        if self.prompter:
            self.text = self.prompter.decode(self.tokens)
            ends = [self.text.find(stop) for stop in self.stops.texts if stop in self.text]
            if ends:
                self.text = self.text[: min(ends)]
                self.ended = True

    @property
    def stable_text(self) -> str:
        """The text that no further token can change: without a partial character or a partial stop text."""
        if self.ended:
            return self.text
        text = self.text.rstrip("\N{REPLACEMENT CHARACTER}")
        stops = self.stops.texts
        held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return text[: len(text) - held]


def stream_text(answer: Answer, steps: Iterator[Tensor]) -> Iterator[str]:
    """Yields the text of an answer piece by piece, while `steps` add its tokens."""
    given = 0
    for _ in steps:
        text = answer.stable_text
        if len(text) > given:
            yield text[given:]
            given = len(text)
    if len(answer.text) > given:
        yield answer.text[given:]


def printable(text: str) -> str:
    """A text without control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
