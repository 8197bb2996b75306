"""Conversations as a model's own tokenizer writes them: by the chat template beside it, in Jinja's sandbox."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from lmsleep.hub import first_line
from lmsleep.hub.tokenizer import template_file, tokenizer_config

Write = Callable[..., str]


@lru_cache(maxsize=4)
def chat_template(source: str) -> Write | None:
    """write(messages, asking=False): a conversation in text, with `asking` up to where the answer begins. It is told no
    date, so that rows are the same every day.

    Args:
        source: as in `Text.tokenizer`.

    Returns:
        None if there is no template.

    Raises:
        ValueError: if it is none of Jinja; what is returned raises it if the template refuses the messages.
    """
    if source == "bytes":
        return None
    config = tokenizer_config(source)
    text = template_file(source) or _template(config)
    if text is None:
        return None
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    try:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        template = environment.from_string(text, {"raise_exception": refuse})
    except TemplateError as error:
        raise ValueError(f"the chat template of {source} cannot be read: {first_line(error)}") from None
    tokens = {name: _token(value) for name, value in config.items() if name.endswith("_token")}

    def write(messages: Sequence[Mapping[str, Any]], asking: bool = False) -> str:
        try:
            return template.render(messages=messages, add_generation_prompt=asking, **tokens)
        except Exception as error:  # templates call what they like
            raise ValueError(f"the chat template of {source} refuses the messages: {first_line(error)}") from None

    return write


def read_asked_said(write: Write, messages: Sequence[Mapping[str, Any]], end: str) -> tuple[str, str, str]:
    """A conversation in three texts: what comes before the last question, the question and the answer.

    Args:
        write: of `chat_template`. messages: with the text `content`. end: of an answer, which is left out.

    Raises:
        ValueError: if the template does not write the question as it stands.
    """
    *before, asked, answer = messages
    prompt, whole = write(messages[:-1], asking=True), write(messages)
    said = whole.removeprefix(prompt).partition(end)[0] if whole.startswith(prompt) else answer["content"]
    try:
        read = write(before)
    except ValueError:  # some want a question in it
        read = None
    if read is None or not prompt.startswith(read):  # the head of the question is then read with the rest
        place = prompt.rfind(asked["content"].strip())
        if place < 0:
            raise ValueError("the chat template must write what is asked as it stands")
        read = prompt[:place]
    return read, prompt[len(read) :], said


def _template(config: Mapping[str, Any]) -> str | None:
    """That of a tokenizer_config.json: a text, or the `default` of a list of named ones."""
    found = config.get("chat_template")
    if isinstance(found, list):
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _token(value: Any) -> Any:
    return value.get("content") if isinstance(value, Mapping) else value
