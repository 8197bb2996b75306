"""Chat templates of tokenizers, rendered in Jinja's sandbox."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from lmsleep.checks import first_line
from lmsleep.hub import template_file, tokenizer_config

RenderMessages = Callable[..., str]


@lru_cache(maxsize=4)
def chat_template(source: str) -> RenderMessages | None:
    """The chat template of a tokenizer (as in `TextTask.tokenizer`) as a function write(messages, asking=False) ->
    text; `asking` appends the generation prompt. None if there is no template. The template gets no date, so that rows
    do not depend on it. Raises ValueError if it is not valid Jinja; the function raises it if the template refuses the
    messages."""
    config = tokenizer_config(source)
    text = template_file(source) or config.get("chat_template")
    if isinstance(text, list):
        text = next((named.get("template") for named in text if named.get("name") == "default"), None)
    if not isinstance(text, str):
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
    tokens = {name: value for name, value in config.items() if name.endswith("_token")}
    tokens = {name: value.get("content") if isinstance(value, Mapping) else value for name, value in tokens.items()}

    def write(messages: Sequence[Mapping[str, Any]], asking: bool = False) -> str:
        try:
            return template.render(messages=messages, add_generation_prompt=asking, **tokens)
        except Exception as error:  # templates call what they like
            raise ValueError(f"the chat template of {source} refuses the messages: {first_line(error)}") from None

    return write


def split_conversation(write: RenderMessages, messages: Sequence[Mapping[str, Any]], end: str) -> tuple[str, str, str]:
    """Splits a conversation into the text before the last question, the question and the answer without its `end`
    token; `write` as of `chat_template`. Raises ValueError if the template does not write the question verbatim."""
    *before, asked, answer = messages
    prompt, whole = write(messages[:-1], asking=True), write(messages)
    reply = whole.removeprefix(prompt).partition(end)[0] if whole.startswith(prompt) else answer["content"]
    try:
        read = write(before)
    except ValueError:  # some templates require a question
        read = None
    if read is None or not prompt.startswith(read):  # then the head of the question is read with the rest
        place = prompt.rfind(asked["content"].strip())
        if place < 0:
            raise ValueError("the chat template must write what is asked as it stands")
        read = prompt[:place]
    return read, prompt[len(read) :], reply
