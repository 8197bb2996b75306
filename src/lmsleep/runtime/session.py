"""A stream of tokens or text of any length, read through a small window: awake token by token, asleep on overflow."""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, Unpack

import torch
from torch import Tensor

from lmsleep.checks import check_integer, checked, counted, require
from lmsleep.hub import TOKENIZER, checkpoint_folder
from lmsleep.memory import FastWeights
from lmsleep.model import HybridLM
from lmsleep.model.folder import CONFIG, WEIGHTS, read_config
from lmsleep.model.trained import check_streamable, passes_of
from lmsleep.runtime.answer import Answer, Stop, new_answers, stream_text
from lmsleep.runtime.events import OnSleep
from lmsleep.runtime.prompter import Prompter
from lmsleep.runtime.reader import StreamReader, locked
from lmsleep.runtime.sampling import Sampling, decode_steps, sampler
from lmsleep.runtime.saved import load_memory, save_memory
from lmsleep.runtime.tokens import Input, Mask, to_rows
from lmsleep.sleep import OnOverflow
from lmsleep.windows import Eviction, policy_name

Texts = TypeVar("Texts", str, list[str])


class Session(StreamReader):
    """Reads an endless stream of tokens at constant memory.

    A token takes one ordinary pass. When the next token does not fit into the window, the model sleeps first: passes
    2..N over the window, then eviction. A window that has just become full is still awake; `sleep()` makes it sleep at
    once. The result does not depend on how tokens are split into calls.

    Rows of a batch may differ in length: those at the same place in their windows are read together. A session is
    thread-safe: calls wait for each other; threads that ask concurrently each need a fork.

    Args:
        model: no gradient is kept; a warning names a dropout that draws, of a model in training mode.
        n_passes: N, the total number of passes over a window that overflows; None: that of the training, as
            `model.trained` states it of a loaded model, or else 1.
        eviction: `hard` or `sliding`; None: that of the training, or else `hard`.
        tokenizer: for text input and output: one of `tokenizers` or transformers, a folder or a name on the Hugging
            Face hub, `bytes`, or a `Prompter`.
        callbacks: called with a `SleepEvent` after every pass of a sleep.
        static: read single tokens, and sleep on full windows, in static buffers, on CUDA as graphs. Worth it for long
            streams.
        fast_weights: S before the first token, as of `read_windows`, and with it B; None: zeros.
        on_overflow: sleeps in place of passes 2..N, as in `read_windows`; windows of a stream have no number.

    Raises:
        ValueError: if n_passes is below 1 or given beside `on_overflow`, the eviction is unknown, `fast_weights` do not
            fit, the model was trained with several wake passes, or the tokenizer has more tokens than it.
    """

    def __init__(
        self,
        model: HybridLM,
        n_passes: int | None = None,
        eviction: Eviction | None = None,
        *,
        tokenizer: Any = None,
        callbacks: Sequence[OnSleep] = (),
        static: bool = False,
        fast_weights: FastWeights | None = None,
        on_overflow: OnOverflow | None = None,
    ) -> None:
        super().__init__(model, n_passes, eviction, callbacks, static, fast_weights, on_overflow)
        self.prompter = None if tokenizer is None else Prompter.of(tokenizer, model.vocab_size)

    @locked
    def feed(self, tokens: Input, *, mask: Mask | None = None, last_only: bool = False) -> Tensor:
        """Reads tokens, or text if the session has a tokenizer.

        Args:
            tokens: (B, n) integers; (n,) or one number if B is 1; a list of B lists of any lengths; a text, or B of
                them. The first call sets B.
            mask: (B, n) bool, or zeros and ones; (n,) if B is 1. 0: not seen, but takes a place in the window.
            last_only: return only the logits of each row's last unmasked token, at constant memory for any n.

        Returns:
            Logits (B, n, V), or (B, V) with `last_only`; n is the greatest length; NaN where a row has none.

        Raises:
            ValueError: if a shape does not fit or a token is not in the vocabulary; the memory is then as it was.
        """
        return self._read(to_rows(tokens, mask, self.batch_size, self.model, self.prompter), last_only)

    @locked
    def read(
        self,
        document: str | Path | Sequence[str | Path],
        question: str | None = None,
        *,
        on_window: Callable[[int, int], None] = lambda number, total: None,
    ) -> int:
        """Reads a document in the template of the training, and sleeps on each of its windows: `lmsleep chat --read`.

        Args:
            document: a text or, as a `Path`, a file, of which a .json may be a conversation; or a list with a document
                for each row, of any lengths. The first call sets B.
            question: for a model that reads its question before the document, and for no other; `ask` is then given
                nothing, unless the question stands behind the document too.
            on_window: called before each window with its number, from 1, and how many the longest document has.

        Returns:
            The number of tokens, of all documents together.

        Raises:
            ValueError: if there is no tokenizer or no text, the question is missing or has no place, or there are more
                or fewer documents than rows; the memory is then as it was.
        """
        several = not isinstance(document, str | Path)
        prompter, texts = self._text_prompter().open_documents(document if several else [document])
        rows = [prompter.document_windows(text, question, self.model.window_size) for text in texts]
        B = self.batch_size or len(rows)
        require(not several or len(rows) == B, f"document must be one for each of {counted(B, 'rows')}", len(rows))
        self.prompter = prompter
        self.sleep()
        windows = list(zip_longest(*rows, fillvalue=[]))
        for number, window in enumerate(windows, 1):
            on_window(number, len(windows))
            self.feed(list(window) * (B // len(rows)), last_only=True)  # one document is read in every row
            self.sleep()
        return sum(len(window) for windows in rows for window in windows)

    @locked
    def generate(self, prompt: Input, max_new_tokens: int, *, stop: Stop = None, **how: Unpack[Sampling]) -> Tensor:
        """Reads a prompt, then samples tokens one by one and reads them, the last included.

        Args:
            prompt: as in `feed`, at least one token a row.
            stop: a token or a text, or several, any of which ends a row; the row then repeats its last token.
            temperature: 0 takes the most likely token; by default 1.
            top_k: sample from as many of the most likely tokens; by default all.
            top_p: sample from the smallest set of these whose probabilities sum to top_p; by default 1.
            seed: of the sampling; None: torch's global generator.

        Returns:
            New tokens (B, n), n <= max_new_tokens.

        Raises:
            ValueError: if an argument is out of range; the memory is then as it was.
        """
        _, steps = self._start(prompt, max_new_tokens, stop, how)
        return torch.stack(list(steps), dim=1)

    @locked
    def ask(
        self,
        question: Texts,
        max_new_tokens: int = 256,
        *,
        asleep: bool = True,
        stop: Stop = None,
        **how: Unpack[Sampling],
    ) -> Texts:
        """Asks a question, or one in each row, and returns the answer, without what ended it or the space before it.

        Args:
            asleep: sleep first, so that the question has its own window, as in training.
            stop: as in `generate`; the tokenizer's own end tokens always end an answer.
            how: as in `generate`, but the default temperature is 0.

        Raises:
            ValueError: if an argument is out of range or there is no tokenizer; the memory is then as it was.
        """
        answers, steps = self._start_answers(question, max_new_tokens, stop, how, asleep)
        deque(steps, maxlen=0)
        texts = [answer.text for answer in answers]
        return texts[0] if isinstance(question, str) else texts  # pyright: ignore[reportReturnType] (as the question)

    @locked
    def stream(
        self,
        question: str,
        max_new_tokens: int = 256,
        *,
        asleep: bool = True,
        stop: Stop = None,
        **how: Unpack[Sampling],
    ) -> Iterator[str]:
        """As `ask`, but yields the answer in pieces; the question is read at once."""
        answers, steps = self._start_answers([question], max_new_tokens, stop, how, asleep)
        return stream_text(answers[0], steps)

    @checked
    def save(self, path: str | Path) -> None:
        """Writes the memory to one file atomically, from which `load` continues exactly. Raises ValueError if the
        folder of `path` does not exist."""
        settings: dict[str, Any] = {"n_passes": self.n_passes, "eviction": self.eviction}
        settings |= self.prompter.saved() if self.prompter else {}
        save_memory(path, self.model, self.groups, on_overflow=policy_name(self.on_overflow), **settings)

    @classmethod
    def load(cls, path: str | Path, model: HybridLM, **options: Any) -> "Session":
        """A session that continues from a saved memory, with its N and eviction; `options` as of the class. It asks by
        the templates that it was saved with, unless the tokenizer is a `Prompter`. Raises ValueError if the file cannot
        be read, is no saved memory, or was written by another model, or `options` have N, eviction or fast weights, or
        another `on_overflow`."""
        for name in options.keys() & {"n_passes", "eviction", "fast_weights"}:
            rule = f"{name} must be left out with a memory, which goes on as it was"
            raise ValueError(f"{rule}, got {' '.join(repr(options[name]).split()):.99}")
        header, groups = load_memory(path, model)
        policy = policy_name(options.get("on_overflow"))
        require(policy == header.on_overflow, f"on_overflow must be {header.on_overflow}, as of the memory", policy)
        if header.task and options.get("tokenizer") is not None:
            vocab_size = model.vocab_size
            options["tokenizer"] = Prompter.from_task(header.task, vocab_size, options["tokenizer"])
        session = cls(model, header.n_passes, header.eviction, **options)
        if session.prompter and header.before:
            session.prompter = replace(session.prompter, before=header.before)
        session._groups = groups
        return session

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        n_passes: int | None = None,
        eviction: Eviction | None = None,
        *,
        device: torch.device | str | None = None,
        tokenizer: Any = None,
        **options: Any,
    ) -> "Session":
        """A session of a saved model, with N (1, and a warning, where it is not stated), eviction, tokenizer and
        templates of its training. `source` and `device` as of `HybridLM.from_pretrained`; the rest as of the class."""
        folder = checkpoint_folder(source, (WEIGHTS, CONFIG, *TOKENIZER), "source")
        _, trained = read_config(folder)
        policy = policy_name(options.get("on_overflow"))
        check_streamable(trained, policy)
        model = HybridLM.from_pretrained(folder, device=device)
        prompter = Prompter.from_task(trained.get("task"), model.vocab_size, tokenizer, folder)
        passes = n_passes if policy else passes_of(trained, n_passes, folder / CONFIG)
        return cls(model, passes, eviction, tokenizer=prompter, **options)

    def _text_prompter(self) -> Prompter:
        if self.prompter is None:
            raise ValueError("tokenizer must be given to a session that reads or is asked in text, got None")
        return self.prompter

    def _start_answers(
        self, question: Any, max_new_tokens: int, stop: Stop, how: Sampling, asleep: bool
    ) -> tuple[list[Answer], Iterator[Tensor]]:
        """As `_start`, for questions in text."""
        prompter = self._text_prompter()
        prompts = prompter.prompts(question)
        if max(len(prompter.encode(prompt)) for prompt in prompts) > self.model.window_size:
            fits = f"a question must fit into a window of {self.model.window_size} tokens with its template"
            warnings.warn(f"{fits}, as in training: a part of this one is slept on", stacklevel=4)
        return self._start(prompts, max_new_tokens, stop, Sampling(temperature=0.0) | how, asleep, as_text=True)

    def _start(
        self, prompt: Input, max_new_tokens: int, stop: Stop, how: Sampling, asleep: bool = False, as_text: bool = False
    ) -> tuple[list[Answer], Iterator[Tensor]]:
        """Checks all arguments and reads the prompt. Returns the `new_answers` to it, and the iterator of new tokens
        (B,), which adds them to the answers."""
        check_integer("max_new_tokens", max_new_tokens, 1, 2**63 - 1)
        draw = sampler(**how, device=self.model.embedding.weight.device)
        rows = to_rows(prompt, None, self.batch_size, self.model, self.prompter)
        if not min(rows.lengths):
            raise ValueError(f"prompt must have at least one token in every row, got rows of {rows.lengths}")
        answers = new_answers(len(rows.lengths), stop, self.model.vocab_size, self.prompter, as_text)
        if asleep:
            self.sleep()
        return answers, decode_steps(self._read, self._read(rows, last_only=True), draw, int(max_new_tokens), answers)
