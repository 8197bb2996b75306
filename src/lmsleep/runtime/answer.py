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
        stops: Any = stop.tolist() if isinstance(stop, Tensor | np.ndarray) else stop
        if isinstance(stops, str | bytes | Mapping) or not isinstance(stops, Iterable):
            stops = [] if stops is None else [stops]
        stops = list(stops)
        texts = tuple(stop for stop in stops if isinstance(stop, str))
        if texts and (prompter is None or not all(texts)):
            allowed = "texts of a character or more" if prompter else "tokens where the session has no tokenizer"
            raise ValueError(f"stop must be {allowed}, got {texts[0]!r}")
        ids = [stop for stop in stops if not isinstance(stop, str)]
        for token in ids:
            check_integer("stop", token, 0, vocab_size - 1)
        return cls(frozenset(map(int, ids)), texts)


class Answer:
    """The new tokens of a row, and their text if `prompter` is given, up to what ends it and without the space that
    stands before its first word in a row of the training."""

    def __init__(self, stops: StopCriteria, prompter: Prompter | None) -> None:
        self.stops, self.prompter = stops, prompter
        self.tokens: list[int] = []
        self.ended = False
        self._written = ""  # the space included, which a stop text may begin with

    def add(self, token: int) -> None:
        """Adds a token, unless the answer has ended."""
        self.ended = self.ended or token in self.stops.ids
        if self.ended:
            return
        self.tokens.append(token)
        if self.prompter:
            self._written = self.prompter.decode(self.tokens)
            ends = [self._written.find(stop) for stop in self.stops.texts if stop in self._written]
            if ends:
                self._written = self._written[: min(ends)]
                self.ended = True

    @property
    def text(self) -> str:
        """The text so far."""
        return self._written.lstrip()

    @property
    def stable_text(self) -> str:
        """The text that no further token can change: without a partial character or a partial stop text."""
        if self.ended:
            return self.text
        text = self._written.rstrip("\N{REPLACEMENT CHARACTER}")
        stops = self.stops.texts
        held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return text[: len(text) - held].lstrip()


def new_answers(n_rows: int, stop: Stop, vocab_size: int, prompter: Prompter | None, as_text: bool) -> list[Answer]:
    """An answer for each row, which `stop` ends; none if nothing can. `as_text`: answers have a text, and the tokens
    that end one for the prompter end them too. Raises ValueError as `StopCriteria.of`."""
    stops = StopCriteria.of(stop, vocab_size, prompter)
    if as_text and prompter:
        stops = stops._replace(ids=stops.ids | set(prompter.stop))
    prompter = prompter if as_text or stops.texts else None
    return [Answer(stops, prompter) for _ in range(n_rows)] if prompter or stops.ids else []


def stream_text(answer: Answer, steps: Iterator[Tensor]) -> Iterator[str]:
    """Yields the text of an answer piece by piece, while `steps` add its tokens."""
    yielded = 0
    for _ in steps:
        text = answer.stable_text
        if len(text) > yielded:
            yield text[yielded:]
            yielded = len(text)
    if len(answer.text) > yielded:
        yield answer.text[yielded:]


def printable(text: str) -> str:
    """A text without control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
