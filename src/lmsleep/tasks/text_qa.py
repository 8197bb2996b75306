"""Questions about contexts, one a line of JSON: your own text as a task."""

import json
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lmsleep.hub import named_eos
from lmsleep.tasks.base import IGNORE, Batch
from lmsleep.tasks.chat_template import chat_template, split_conversation
from lmsleep.tasks.line_index import LineIndex
from lmsleep.tasks.template import ASKABLE, FIELD, QUESTION, check_template, fill_template, is_askable, parse_row
from lmsleep.tasks.text_base import TextTask

AROUND_ROWS = 100  # rows that `TextQA.around` looks at
CHAT_ML = "<|im_start|>{role}\n{content}<|im_end|>\n"


@dataclass(frozen=True)
class TextQA(TextTask):
    r"""Answer a question about a context that was read, slept on and forgotten. The slice of a row is the number of
    windows of its context.

    Row, with a context of one window and a bit:

        tokens   The wren .. | .. blue . PAD PAD | \n Question : .. \n Answer :  blue PAD
        targets   -   -      |    -   -   -   -  |  -    -     -  -  -    -   - blue <eos> -
        mask      1   1      |    1   1   0   0  |  1    1     1  1  1    1   1   1   0
        window       0       |         1         |                  2

    The context is padded to whole windows, and a row with fewer windows than others of its batch has empty windows
    first; padding is masked. Question and answer are alone in the last window, which carries the loss.

    A line is a JSON object. Context, question and answer are templates over its fields, so that these may have any
    name, and the question may come first: `context="{question}\n{context}"`, `question="\nAnswer:"`. Nested fields
    have dots: `answer=" {answers.text.0}"`. Numbers, true and false are read as JSON writes them: `1.5`, `true`. A line
    with `messages`, a list of objects with `role` and `content`, is a conversation: the last message is the answer, the
    one before it the question, those before that the context.

    Args:
        context, question, answer: the templates. message: the template of one message; None: the chat template of the
            tokenizer, or ChatML if it has none.
        eos_token: ends an answer; None: that of the tokenizer_config.json beside the tokenizer.
    """

    context: str = "{context}"
    question: str = "\nQuestion: {question}\nAnswer:"
    answer: str = " {answer}"
    message: str | None = None
    eos_token: str | None = None

    @cached_property
    def eos_id(self) -> int:
        """The token that ends an answer. Raises ValueError if the vocabulary does not have it."""
        if (token := self.eos_token or named_eos(self.tokenizer)) is None:
            raise ValueError(f"eos_token must be given, since no tokenizer_config.json of {self.tokenizer} names it")
        eos_id = self._tokenizer.token_to_id(token)
        if eos_id is None:
            raise ValueError(f"eos_token must be in the vocabulary of tokenizer {self.tokenizer}, got {token!r}")
        return eos_id

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_askable(self.context, self.question):
            warnings.warn(f"{ASKABLE}, got {self.context!r}", stacklevel=3)

    def _open(self) -> None:
        check_template("context", self.context)
        check_template("answer", self.answer)
        if self.message is not None:
            check_template("message", self.message, "content")
        for name in ("context", "question", "answer", "message"):
            if "\\n" in (text := getattr(self, name) or ""):
                rule = f"{name} has a backslash and an n, which is no line end (in YAML, \\n within double quotes is)"
                warnings.warn(f"{rule}: {text!r}", stacklevel=3)
        _ = self.eos_id

    @cached_property
    def _tail(self) -> int:
        return max(int(lines.table[:, 3].max()) for lines in self._lines.values())

    @property
    def sequence_length(self) -> int:
        return self.slices[-1] * self.window_size + self._tail

    def texts(self, line: str) -> tuple[str, str, str]:
        """Context, question and answer of a line of JSON. Raises ValueError if it is no object, or a field is missing
        or no text."""
        row = parse_row(line)
        if row.get("messages") is None:
            return fill_template(self.context, row), fill_template(self.question, row), fill_template(self.answer, row)
        messages = row["messages"]
        if not isinstance(messages, list) or len(messages) < 3 or not all(isinstance(m, dict) for m in messages):
            raise ValueError("messages must be a list of three or more: what is read, what is asked, what is said")
        messages = [message | {"content": fill_template("{content}", message)} for message in messages]
        reply = messages[-1]["content"]
        if self.message is None and (write := chat_template(self.tokenizer)):
            return split_conversation(write, messages, self._tokenizer.id_to_token(self.eos_id) or "")
        template = self.message or CHAT_ML
        *before, asked = (fill_template(template, message) for message in messages[:-1])
        return "".join(before), asked + fill_template(template.partition("{content}")[0], messages[-1]), reply

    @cached_property
    def around(self) -> dict[str, Any]:
        """If the first line is a conversation: the `role` of the document's message, and the messages `ahead` of it and
        `behind` it, None if those of the first lines differ; else empty."""
        lines = self._lines["train"]
        rows = [lines.read(i, parse_row).get("messages") for i in range(min(AROUND_ROWS, len(lines.table)))]
        if not rows or rows[0] is None:
            return {}
        cut = []
        for row in filter(None, rows):
            # The document is the first message that is not the system's.
            at = next((i for i, message in enumerate(row[:-2]) if message.get("role") != "system"), 0)
            cut.append((row[:at], row[at], row[at + 1 : -2]))
        ahead, document, behind = cut[0]
        return {
            "role": str(document.get("role")),
            "ahead": ahead if all(other == ahead for other, _, _ in cut) else None,
            "behind": behind if all(other == behind for _, _, other in cut) else None,
        }

    @property
    def question_template(self) -> str:
        """The text around a question that is asked later, with `{question}` in it; without that if the question is part
        of the context; `{question}` alone if its template has several fields."""
        rows = self._splits["train"]
        row = rows.lines.read(int(rows.rows[0]), parse_row)
        if row.get("messages") is None:
            several = len(set(FIELD.findall(self.question))) > 1
            return QUESTION if several else FIELD.sub(QUESTION, self.question)
        *before, question, answer = row["messages"]
        return self.texts(json.dumps({"messages": [*before, question | {"content": QUESTION}, answer]}))[1]

    @property
    def example(self) -> tuple[str, str, str]:
        """`texts` of a test row."""
        rows = self._splits["test"]
        return rows.lines.read(int(rows.rows[0]), self.texts)

    def baselines(self) -> dict[str, dict[str, float]]:
        """`commonest`: how often the commonest answer is right, for the test rows of each slice and for `all`."""
        rows = self._splits["test"]
        answers = np.array([rows.lines.read(int(row), self.texts)[2] for row in rows.rows], dtype=object)
        groups = {str(n): answers[rows.windows == n] for n in np.unique(rows.windows)} | {"all": answers}
        return {"commonest": {name: Counter(g).most_common(1)[0][1] / len(g) for name, g in groups.items()}}

    def _parts(self, texts: tuple[str, str, str]) -> tuple[list[int], list[int], list[int]]:
        if not texts[2].strip():
            raise ValueError("answer must have text, got none")
        context, question, answer = map(self.encode, texts)
        return context, question, [*answer, self.eos_id]

    def _index(self, source: str, name: str) -> LineIndex:
        return LineIndex.of(source, name, self._measure)

    def _sources(self, lines: LineIndex) -> np.ndarray:
        return np.arange(len(lines.table))

    def _measure(self, line: str) -> tuple[int, int, int, int] | None:
        """Windows of context, tokens read in the last window, tokens of context, and a hash of the texts; None for an
        empty line."""
        if not line.strip():
            return None
        texts = self.texts(line)
        parts = self._parts(texts)
        for name, part, least in zip(("context", "question", "answer"), parts, (1, 1, 2), strict=True):
            if len(part) < least:
                raise ValueError(f"{name} must have a token, got none")
        context, question, answer = map(len, parts)
        if question + answer - 1 > (L := self.window_size):
            raise ValueError(
                f"question and answer must fit into a window of {L} tokens, got {question} and {answer - 1}"
            )
        return -(-context // self.window_size), question + answer - 1, context, hash(texts)

    def _windows(self, lines: LineIndex) -> np.ndarray:
        longest = int(lines.table[:, 4].max(initial=0))
        if 0 < longest < self.window_size:
            warnings.warn(
                f"no context fills a window of {self.window_size} tokens, the longest has {longest} (of "
                f"{lines.files[0]}): the rest is padding, so choose a smaller window_size",
                stacklevel=2,
            )
        return lines.table[:, 2]

    def _batch(self, lines: LineIndex, rows: np.ndarray) -> Batch:
        windows, L = lines.table[rows, 2], self.window_size
        start = int(windows.max()) * L  # of the last window
        tokens = np.full((len(rows), start + self._tail), self.eos_id)
        targets, mask = np.full_like(tokens, IGNORE), np.zeros_like(tokens, dtype=bool)
        for i, row in enumerate(rows):
            context, question, answer = lines.read(row, lambda line: self._parts(self.texts(line)))
            read = question + answer[:-1]  # the end of sequence is a target, never an input
            for first, part in ((start - windows[i] * L, context), (start, read)):
                tokens[i, first : first + len(part)] = part
                mask[i, first : first + len(part)] = True
            targets[i, start + len(question) - 1 : start + len(read)] = answer
        return Batch(*map(torch.from_numpy, (tokens, targets, windows, mask)))
