"""Text in and out of a session: tokenizer, and templates of documents and questions."""

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsleep.checks import naming_file, parse_json, read_object, require, text_of, typed
from lmsleep.hub import TOKENIZER, check_vocabulary, checkpoint_folder, named_eos, open_tokenizer
from lmsleep.model.folder import CONFIG, MODEL_TYPE, read_config
from lmsleep.tasks.template import CONTEXT, QUESTION, rename_fields
from lmsleep.tasks.text_qa import TextQA

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Message = Mapping[str, Any]
Messages = tuple[dict[str, Any], ...] | None
DOCUMENT = "document must be a text, a Path, or a list with one for each row"
AS_CONVERSATION = (
    'to have others around it, give the document as a conversation, a .json file such as [{"role": "user", "content": '
    '"the document"}, {"role": "assistant", "content": "OK."}]'
)
NO_TEMPLATES = TextQA("", question=QUESTION)  # no text around documents and questions


@dataclass(frozen=True)
class Prompter:
    """How a model reads documents and questions.

    Args:
        tokenizer: used without special tokens.
        task: with templates over {context} and {question}, as in the training.
        role: of a document's message, if rows were conversations; None: they were not.
        around: the messages before and after a document; None: they differed between rows.
        before: the messages before a question, if they are not a document.
        stop: tokens that end an answer.
    """

    tokenizer: "Tokenizer"
    task: TextQA = NO_TEMPLATES
    role: str | None = None
    around: tuple[Messages, Messages] = ((), ())
    before: tuple[Message, ...] = ()
    stop: tuple[int, ...] = ()

    @classmethod
    def of(cls, source: Any, vocab_size: int) -> "Prompter":
        """From a tokenizer of `tokenizers` or transformers, a folder, file or name, or `bytes`, which may also give the
        token that ends an answer; that of a saved model also has the templates of its training. Raises ValueError if
        there is no such tokenizer, or it has more tokens than the model."""
        if isinstance(source, str | Path) and source != "bytes" and not Path(source).is_file():
            folder = checkpoint_folder(source, (CONFIG, *TOKENIZER), "tokenizer")
            if (path := folder / CONFIG).is_file() and read_object(path).get("model_type") == MODEL_TYPE:
                source = cls.from_task(read_config(folder)[1].get("task"), vocab_size, folder=folder) or source
        return cls.bare(source, vocab_size)

    @classmethod
    def bare(cls, source: Any, vocab_size: int) -> "Prompter":
        """As `of`, without templates unless `source` is a `Prompter`."""
        prompter = source
        if not isinstance(source, cls):
            named = isinstance(source, str | Path)
            tokenizer = open_tokenizer(source) if named else getattr(source, "backend_tokenizer", source)
            end = tokenizer.token_to_id(named_eos(source) or "") if named else getattr(source, "eos_token_id", None)
            prompter = cls(tokenizer, stop=() if end is None else (end,))
        if not hasattr(prompter.tokenizer, "token_to_id"):
            allowed = "tokenizer must be one of `tokenizers`, a folder or 'bytes'"
            raise ValueError(f"{allowed}, got {prompter.tokenizer!r:.99}")
        check_vocabulary(prompter.tokenizer, vocab_size)
        return prompter

    @classmethod
    def from_task(
        cls, task: Any, vocab_size: int, tokenizer: Any = None, folder: Path | None = None
    ) -> "Prompter | None":
        """From the task of a training, as in its metadata or as of `saved`; None if there is no tokenizer.

        Args:
            tokenizer: as in `of`, in place of that of the training.
            folder: that holds the training's tokenizer; None: as the task says.
        """
        if isinstance(tokenizer, cls):
            return cls.bare(tokenizer, vocab_size)
        task = task if isinstance(task, Mapping) else {}
        arguments = typed(dict[str, Any], task.get("init_args") or {}, "init_args of the task").items()
        fields = {name: text for name, text in arguments if isinstance(text, str)}
        folder = (folder or Path(str(fields.get("tokenizer")))).resolve()
        saved = folder if (folder / TOKENIZER[0]).is_file() else None
        saved = saved or ("bytes" if fields.get("tokenizer") == "bytes" else None)
        source = saved if tokenizer is None else tokenizer
        if source is None:
            return None
        prompter = cls.bare(source, vocab_size)
        template_source = str(source if isinstance(source, str | Path) else saved or folder)
        context, question = rename_fields(fields.get("context", CONTEXT), fields.get("question", QUESTION))
        rows = TextQA("", tokenizer=template_source, context=context, question=question)
        rows = replace(rows, message=fields.get("message"), eos_token=fields.get("eos_token"))
        role = str(task["role"]) if "role" in task else None
        messages = [task.get(name, ()) for name in ("ahead", "behind")]
        around = typed(tuple[Messages, Messages], messages, "what stands around a document")
        end = prompter.tokenizer.token_to_id(fields.get("eos_token", ""))
        return cls(prompter.tokenizer, rows, role, around, stop=prompter.stop if end is None else (end,))

    def saved(self) -> dict[str, Any]:
        """All but the tokenizer: `before`, and the `task` for `from_task`."""
        names = ("tokenizer", "context", "question", "message", "eos_token")
        task: dict[str, Any] = {"init_args": {name: getattr(self.task, name) for name in names}}
        if self.stop:
            task["init_args"]["eos_token"] = self.tokenizer.id_to_token(self.stop[0])
        if self.role is not None:
            task |= {"role": self.role, "ahead": self.around[0], "behind": self.around[1]}
        return {"before": tuple(map(dict, self.before)), "task": task}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. Raises ValueError if it has half a surrogate pair."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"text must have no half of a surrogate pair, got {text!r:.99}") from None
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        return self.tokenizer.decode(list(tokens))

    def document_windows(self, document: str | None, question: str | None, window_size: int) -> list[list[int]]:
        """The tokens of a document in its template, window by window; arguments as of `texts`. Raises ValueError unless
        there is a question where it is read before the document, and there alone."""
        allowed = "given with a document where the training had it before the document"
        allowed = allowed if self.question_first else "left out where the training had it behind the document"
        require(self.question_first == (question is not None), f"question must be {allowed}", question)
        tokens = self.encode(self.texts(document, "..." if question is None else question)[0])
        return [tokens[start : start + window_size] for start in range(0, len(tokens), window_size)]

    @property
    def question_first(self) -> bool:
        """Whether the question is read before the document."""
        return not self.role and QUESTION in self.task.context

    @property
    def question_behind(self) -> bool:
        """Whether the question has a place behind the document."""
        return bool(self.role) or QUESTION in self.task.question

    def open_document(self, document: str | Path) -> "tuple[Prompter, str | None]":
        """The prompter for questions about a document, and its text.

        A file .json, if `role` is set, is the conversation that it holds: then there is no text, but `before`. Warns if
        the messages around a document are unknown. Raises ValueError if there is no text or no such conversation.
        """
        require(isinstance(document, str | Path), DOCUMENT, document)
        with naming_file(document) if isinstance(document, Path) else nullcontext():
            text = text_of(document) if isinstance(document, Path) else document
            require(text.strip(), "a document must have text in it", text)
        if self.role and isinstance(document, Path) and document.suffix == ".json":
            return replace(self, before=parse_conversation(text)), None
        unknown = [name for name, part in zip(("before", "after"), self.around, strict=True) if part is None]
        if self.role and unknown:
            rows = f"the rows of the training differ in the messages {' and '.join(unknown)} the document"
            warnings.warn(f"{rows}, so it is read without them: {AS_CONVERSATION}", stacklevel=2)
        return replace(self, before=()), text

    def open_documents(self, documents: Sequence[str | Path]) -> "tuple[Prompter, list[str | None]]":
        """As `open_document`, for a document in each row. Raises ValueError also if there is none, or a conversation
        among several: questions follow one alone."""
        require(isinstance(documents, list | tuple) and documents, DOCUMENT, documents)
        prompters, texts = zip(*map(self.open_document, documents), strict=True)
        require(len(texts) == 1 or None not in texts, "a conversation must be read alone", documents)
        return prompters[0], list(texts)

    def texts(self, document: str | None, question: str = "...") -> tuple[str, str]:
        """The texts of document and question as in a row of the training. `document` None: `before`; `question` matters
        for the first text only if `question_first`. Raises ValueError if the chat template refuses them, or a template
        has other fields."""
        row: dict[str, Any] = {"context": document or "", "question": question, "answer": ""}
        conversation = self.before if document is None else ()
        if self.role:
            ahead, behind = (messages or () for messages in self.around)
            message = {"role": self.role, "content": CONTEXT if document is None else document}
            turn = ({"role": "user", "content": question}, {"role": "assistant", "content": "..."})
            row = {"messages": [*(conversation or (*ahead, message, *behind)), *turn]}
        try:
            return self.task.texts(json.dumps(row))[:2]
        except ValueError as error:
            if conversation or not self.role:
                raise
            raise ValueError(f"{error}; {AS_CONVERSATION}") from None

    def remaining_question(self, question: str) -> str:
        """The question, or nothing if it has no place in the question template, but was read with the document."""
        return question if self.question_behind else ""

    def check_question(self, question: str) -> None:
        """Raises ValueError if a question, as of `format_question`, has no place, or it has one and there is none."""
        allowed = "question must be empty where it was read before the text in training or was always the same"
        require(self.question_behind or not question.strip(), allowed, question)
        may_be_empty = not self.question_behind or (not self.role and self.task.question == QUESTION)
        require(may_be_empty or question.strip(), "question must have text in it", question)

    def format_question(self, question: str) -> str:
        """A question in its template. Raises ValueError as `check_question`, or if a chat template refuses it."""
        self.check_question(question)
        return self.texts(None, question)[1]

    def prompts(self, question: Any) -> list[str]:
        """One question, or one for each row, in its template. Raises ValueError if one is no text, and as
        `format_question`."""
        questions = [question] if isinstance(question, str) else question
        if not (isinstance(questions, list | tuple) and questions and all(isinstance(text, str) for text in questions)):
            raise ValueError(f"question must be a text, or a list with a text for each row, got {question!r:.99}")
        return [self.format_question(text) for text in questions]


def parse_conversation(text: str) -> tuple[dict[str, Any], ...]:
    """The messages of a conversation in JSON. Raises ValueError if they are no list of objects."""
    try:
        messages = parse_json(text)
    except ValueError:
        messages = None
    if not (isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages)):
        raise ValueError(f"a conversation must be a list of messages in JSON, got {text!r:.99}")
    return tuple(messages)
