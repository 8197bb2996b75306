"""Text in and out of a session: tokenizer, and templates of documents and questions."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsleep.checks import naming_file, parse_json, read_object, require, typed
from lmsleep.hub import TOKENIZER, check_vocabulary, checkpoint_folder, named_eos, open_tokenizer
from lmsleep.model.folder import CONFIG, MODEL_TYPE, read_config
from lmsleep.tasks.text_qa import CONTEXT, QUESTION, TextQA, rename_fields

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Message = Mapping[str, Any]
Messages = tuple[dict[str, Any], ...] | None
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
    def of(cls, given: Any, vocab_size: int) -> "Prompter":
        """From a tokenizer of `tokenizers` or transformers, a folder, file or name, or `bytes`, which may also give the
        token that ends an answer; that of a saved model also has the templates of its training. Raises ValueError if
        there is no such tokenizer, or it has more tokens than the model."""
        if isinstance(given, str | Path) and given != "bytes" and not Path(given).is_file():
            folder = checkpoint_folder(given, (CONFIG, *TOKENIZER), "tokenizer")
            if (path := folder / CONFIG).is_file() and read_object(path).get("model_type") == MODEL_TYPE:
                given = cls.from_folder(folder, read_config(folder)[1], vocab_size) or given
        return cls.bare(given, vocab_size)

    @classmethod
    def bare(cls, given: Any, vocab_size: int) -> "Prompter":
        """As `of`, without templates unless `given` is a `Prompter`."""
        if not isinstance(given, cls):
            named = isinstance(given, str | Path)
            tokenizer = open_tokenizer(given) if named else getattr(given, "backend_tokenizer", given)
            end = tokenizer.token_to_id(named_eos(given) or "") if named else getattr(given, "eos_token_id", None)
            given = cls(tokenizer, stop=() if end is None else (end,))
        if not hasattr(given.tokenizer, "token_to_id"):
            raise ValueError(f"tokenizer must be one of `tokenizers`, a folder or 'bytes', got {given.tokenizer!r:.99}")
        check_vocabulary(given.tokenizer, vocab_size)
        return given

    @classmethod
    def from_folder(
        cls, folder: Path, trained: Mapping[str, Any], vocab_size: int, given: Any = None
    ) -> "Prompter | None":
        """From a saved model and the metadata of its training; None if it has no tokenizer. `given` as in `of`, in
        place of the folder's tokenizer."""
        if isinstance(given, cls):
            return cls.bare(given, vocab_size)
        task = trained.get("task")
        task = task if isinstance(task, Mapping) else {}
        said = {name: text for name, text in dict(task.get("init_args") or {}).items() if isinstance(text, str)}
        own = "bytes" if said.get("tokenizer") == "bytes" else None
        if (folder / TOKENIZER[0]).is_file():
            own = folder
        source = own if given is None else given
        if source is None:
            return None
        prompter = cls.bare(source, vocab_size)
        role = str(task["role"]) if "role" in task else None
        context, question = rename_fields(said.get("context", CONTEXT), said.get("question", QUESTION))
        written = own if own == "bytes" else folder.resolve()
        if isinstance(given, str | Path):
            written = given
        rows = TextQA("", None, None, str(written), context=context, question=question)
        rows = replace(rows, message=said.get("message"), eos_token=said.get("eos_token"))
        end = prompter.tokenizer.token_to_id(said.get("eos_token", ""))
        said_around = [task.get(name, ()) for name in ("ahead", "behind")]
        around = typed(tuple[Messages, Messages], said_around, "what stands around a document")
        return cls(prompter.tokenizer, rows, role, around, stop=prompter.stop if end is None else (end,))

    def spec(self) -> dict[str, Any]:
        """All but the tokenizer and `before`, as `from_folder` takes it for the task of a training."""
        names = ("tokenizer", "context", "question", "message", "eos_token")
        said: dict[str, Any] = {name: getattr(self.task, name) for name in names}
        said["eos_token"] = self.tokenizer.id_to_token(self.stop[0]) if self.stop else said["eos_token"]
        around = {"role": self.role, "ahead": self.around[0], "behind": self.around[1]}
        return {"init_args": said} | (around if self.role is not None else {})

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. Raises ValueError if it has half a surrogate pair."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"text must have no half of a surrogate pair, got {text!r:.99}") from None
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def split_windows(self, text: str, window_size: int) -> list[list[int]]:
        """The tokens of a text, window by window."""
        tokens = self.encode(text)
        return [tokens[at : at + window_size] for at in range(0, len(tokens), window_size)]

    @property
    def question_first(self) -> bool:
        """Whether the question is read before the document."""
        return not self.role and QUESTION in self.task.context

    def with_conversation(self, conversation: str) -> "Prompter":
        """The same for questions after these messages, in JSON. Raises ValueError if they are no list of objects."""
        try:
            messages = parse_json(conversation)
        except ValueError:
            messages = None
        if not (isinstance(messages, list) and messages and all(isinstance(one, dict) for one in messages)):
            raise ValueError(f"a conversation must be a list of messages in JSON, got {conversation!r:.99}")
        return replace(self, before=tuple(messages))

    def with_document(self, text: str) -> "tuple[Prompter, str | None]":
        """For a document: the same without `before`, and the text. Warns if the messages around it are unknown."""
        unknown = [name for name, part in zip(("before", "after"), self.around, strict=True) if part is None]
        if self.role and unknown:
            rows = f"the rows of the training differ in the messages {' and '.join(unknown)} the document"
            warnings.warn(f"{rows}, so it is read without them: {AS_CONVERSATION}", stacklevel=2)
        return replace(self, before=()), text

    def open_document(self, document: str | Path) -> "tuple[Prompter, str | None]":
        """For a text, as `with_document`; for a file, as that with its text, or as `with_conversation`, and None, if it
        is a conversation: a .json and `role` is set. Raises ValueError if there is no text."""
        allowed = "a document must have text in it"
        if isinstance(document, str):
            require(document.strip(), allowed, document)
            return self.with_document(document)
        with naming_file(document):
            text = document.read_text(encoding="utf-8")
            require(text.strip(), allowed, text)
        if self.role and document.suffix == ".json":
            return self.with_conversation(text), None
        return self.with_document(text)

    def texts(self, document: str | None, question: str = "...") -> tuple[str, str]:
        """The texts of document and question as in a row of the training. `document` None: `before`; `question` matters
        for the first text only if `question_first`. Raises ValueError if the chat template refuses them, or a template
        has other fields."""
        row: dict[str, Any] = {"context": document or "", "question": question, "answer": ""}
        whole = document is None and self.before
        if self.role:
            only = {"role": self.role, "content": CONTEXT if document is None else document}
            ahead, behind = (messages or () for messages in self.around)
            read = self.before if whole else [*ahead, only, *behind]
            asked = {"role": "user", "content": question}
            row = {"messages": [*read, asked, {"role": "assistant", "content": "..."}]}
        try:
            return self.task.texts(json.dumps(row))[:2]
        except ValueError as error:
            if whole or not self.role:
                raise
            raise ValueError(f"{error}; {AS_CONVERSATION}") from None

    def remaining_question(self, question: str) -> str:
        """The question, or nothing if it has no place in the question template, but was read with the document."""
        return question if self.role or QUESTION in self.task.question else ""

    def format_question(self, question: str) -> str:
        """A question in its template. Raises ValueError if it has no place there, or it has one and there is none."""
        allowed = "question must be empty where it was read before the text in training or was always the same"
        require(not question.strip() or self.remaining_question(question), allowed, question)
        bare = not self.role and self.task.question == QUESTION
        empty = not question.strip() and self.remaining_question("...") and not bare
        require(not empty, "question must have text in it", question)
        return self.texts(None, question)[1]

    def prompts(self, question: Any) -> list[str]:
        """Questions, or one for each row, as of `asked`. Raises ValueError if one is no text."""
        questions = [question] if isinstance(question, str) else question
        if not (isinstance(questions, list | tuple) and questions and all(isinstance(one, str) for one in questions)):
            raise ValueError(f"question must be a text, or a list with a text for each row, got {question!r:.99}")
        return [self.format_question(one) for one in questions]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        return self.tokenizer.decode(list(tokens))


def encode_input(tokens: Any, prompter: Prompter | None) -> Any:
    """Replaces a text, or a list of texts, by its tokens. Raises ValueError if there is no tokenizer."""
    texts = [tokens] if isinstance(tokens, str) else tokens
    if not (isinstance(texts, Sequence) and len(texts) and all(isinstance(text, str) for text in texts)):
        return tokens
    if prompter is None:
        raise ValueError(f"tokens must be integers where the session has no tokenizer, got text {texts[0]!r:.99}")
    return prompter.encode(tokens) if isinstance(tokens, str) else [prompter.encode(text) for text in texts]
