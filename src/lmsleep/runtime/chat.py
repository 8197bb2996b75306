"""Read documents longer than the window, sleep on them, and answer questions.

lmsleep chat --model FOLDER --read book.txt                          then type questions; /help lists what else
lmsleep chat --model FOLDER --read book.txt --memory book.memory --ask "Who did it?"
lmsleep chat --model FOLDER --memory book.memory --ask "And where?"  goes on from what was read
lmsleep chat --model FOLDER --web                                    a page: each sleep, answers side by side
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from lmsleep.atomic import check_output
from lmsleep.checks import check_integer, require, typed
from lmsleep.errors import naming_flags
from lmsleep.hub import TOKENIZER, checkpoint_folder
from lmsleep.model import HybridConfig
from lmsleep.model.folder import CONFIG, WEIGHTS, read_config
from lmsleep.runtime.prompter import Prompter
from lmsleep.runtime.sampling import Sampling, sampler
from lmsleep.runtime.session import Session
from lmsleep.runtime.terminal import Chat
from lmsleep.sleep import OnOverflow
from lmsleep.tasks.template import CONTEXT, QUESTION, unescape
from lmsleep.windows import Eviction


def open_chat(
    model: str,
    memory: Path | None,
    n_passes: int | None,
    eviction: Eviction | None,
    tokenizer: str | None,
    device: str | None,
    templates: dict[str, str | None],
    ask: str | None = None,
    on_overflow: OnOverflow | None = None,
) -> Session:
    """The session of the command line, from the file `memory` if it exists. Raises ValueError if there is no tokenizer,
    or an option does not fit the model or the memory: what needs no weights is checked before they are read."""
    folder = checkpoint_folder(model, (WEIGHTS, CONFIG, *TOKENIZER), "model")
    prompter = open_prompter(folder, tokenizer, templates)
    if memory is not None and prompter.question_first:
        raise ValueError("memory must be left out with a model that reads its question before the document")
    if ask is not None:
        with naming_flags({"question": "--ask"}):
            first = prompter.question_first  # then it has text, whether or not there is more of it behind the document
            require(not first or ask.strip(), "question must have text in it", ask)
            prompter.check_question(prompter.remaining_question(ask) if first else ask)
    how: dict[str, Any] = {"tokenizer": prompter, "on_overflow": on_overflow}
    session = Session.from_pretrained(folder, n_passes, eviction, device=device, **how)
    if memory is None or not memory.is_file():
        return session
    given = {name: value for name, value in (("n_passes", n_passes), ("eviction", eviction)) if value is not None}
    with naming_flags({"path": "--memory"}):
        return Session.load(memory, session.model, **how, **given)


def open_prompter(folder: Path, tokenizer: str | None, templates: dict[str, str | None]) -> Prompter:
    """Tokenizer and templates of a saved model, or others. Raises ValueError if there is no tokenizer, or a template
    has no place for what belongs into it."""
    fields, trained = read_config(folder)
    vocab_size = typed(HybridConfig, fields, f"model in {folder / CONFIG}").vocab_size or 0
    prompter = Prompter.from_task(trained.get("task"), vocab_size, tokenizer, folder)
    if prompter is None:
        raise ValueError(f"tokenizer must be given, since there is no tokenizer.json in {folder}")
    given = {name: unescape(text) for name, text in templates.items() if text is not None}
    if not given:
        return prompter
    task = replace(prompter.task, **given)
    for name, place, where in (("context", CONTEXT, ""), ("question", QUESTION, task.context)):
        require(place in getattr(task, name) + where, f"{name} must have {place} in it", getattr(task, name))
    return replace(prompter, task=task, role=None)


def check_files(read: list[Path], memory: Path | None) -> None:
    """Raises ValueError or OSError if a document is not there, or `memory` cannot be written, before a long document is
    read."""
    for file in read:
        if not file.is_file():
            raise ValueError(f"--read must name files, but there is none at {str(file)!r}")
    if memory is not None and (read or not memory.is_file()):
        check_output(memory, "memory")


def check_web(**options: object) -> None:
    """Raises ValueError if gradio is not installed, or one of these options of the terminal is given."""
    if find_spec("gradio") is None:
        raise ValueError('web needs gradio: pip install "lmsleep[web]"')
    for name, value in options.items():
        require(value is None, f"{name} must be left out with web", str(value))


def main(
    model: str,
    read: list[Path] = [],  # noqa: B006
    memory: Path | None = None,
    web: bool = False,
    ask: str | None = None,
    n_passes: int | None = None,
    eviction: Eviction | None = None,
    on_overflow: OnOverflow | None = None,
    tokenizer: str | None = None,
    context: str | None = None,
    question: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int | None = None,
    device: str | None = None,
) -> None:
    """The command.

    Args:
        model: folder of `lmsleep export`, `lmsleep finetune` or `save_pretrained`, or a name on the Hugging Face hub.
        read: documents to read first.
        memory: file to continue from, if it exists; it keeps what was read, but no questions.
        web: open a page in place of the terminal (extra [web]); GRADIO_SERVER_PORT is its port.
        ask: one question; only its answer is written to stdout.
        n_passes: N; by default that of the training.
        eviction: by default that of the training.
        on_overflow: sleeps in place of passes 2..N: the name of a function, or of a class, with --on_overflow.<option>.
        tokenizer: folder, file, name on the hub, or `bytes`; by default that of the model's folder.
        context: template of a document, with {context} in it, \\n for a line end; by default that of the training.
        question: template of a question, with {question} in it, \\n for a line end; by default that of the training.
        max_new_tokens: largest length of an answer.
        temperature: 0 takes the most likely token.
        top_k: sample from as many of the most likely tokens.
        top_p: sample from the smallest set of these whose probabilities sum to top_p.
        seed: of the sampling.
        device: such as cuda.

    Raises:
        ValueError: if an argument is out of range.
    """
    how = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    sampler(**how)  # raises before the model is loaded
    check_integer("max_new_tokens", max_new_tokens, 1, 2**63 - 1)
    check_files(read, memory)
    if web:
        check_web(ask=ask, memory=memory, on_overflow=on_overflow)
    templates = {"context": context, "question": question}
    session = open_chat(model, memory, n_passes, eviction, tokenizer, device, templates, ask, on_overflow)
    if web:
        from lmsleep.runtime.web import serve

        serve(session, read, max_new_tokens, how)
        return
    chat = Chat(session, max_new_tokens, how, Console(highlight=False), Console(stderr=True, highlight=False))
    for file in read:
        chat.read(file)
    if read and memory is not None:
        session.save(memory)
    if ask is not None:
        chat.ask(ask)
        return
    config = session.model.config
    chat.log.print(
        f"{config.pattern}, {config.num_params():,} parameters, window of {config.window_size} tokens, "
        f"{session.sleeps}. /help lists the commands."
    )
    chat.loop()
