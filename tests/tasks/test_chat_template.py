"""Chat templates: against transformers' own rendering of the same conversations."""

import json

import gsm_bpe
import pytest
from transformers import PreTrainedTokenizerFast

from lmsleep.tasks import TextQA
from lmsleep.tasks.chat_template import chat_template, split_conversation

MESSAGES = [
    {"role": "system", "content": "Be short. "},
    {"role": "user", "content": "A wren is brown."},
    {"role": "assistant", "content": "Good."},
    {"role": "user", "content": " Wren? "},
    {"role": "assistant", "content": "Brown."},
]
CHAT_ML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
# In the manner of Llama 3: a text before all, contents stripped, no word of a tokenizer's end.
HEADERS = """{{ bos_token }}{% for message in messages %}
{{ '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] | trim + eos_token }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|head|>assistant<|/head|>\\n\\n' }}
{%- endif %}"""
# In the manner of Qwen3: what an answer begins with is no part of the prompt, and without a question there is nothing.
THINKING = """{%- if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}
{{- raise_exception('No user query found in messages.') }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' and loop.last %}
{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(template): a tokenizer with it, as transformers saves one."""
    made = tmp_path_factory.mktemp("tokenizer")
    bpe = gsm_bpe.train_bpe(made)

    def folder(template, **changes):
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=bpe, eos_token=gsm_bpe.EOS, bos_token="<s>", **changes)
        tokenizer.chat_template = template
        path = tmp_path_factory.mktemp("model")
        tokenizer.save_pretrained(path)
        return path, tokenizer

    return folder


@pytest.mark.parametrize("template", [CHAT_ML, HEADERS, THINKING])
def test_a_conversation_is_written_as_transformers_writes_it(folder, template):
    path, tokenizer = folder(template)
    write = chat_template(str(path))
    assert write is not None
    for messages, asking in ((MESSAGES, False), (MESSAGES[:-1], True), (MESSAGES[:2], False)):
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asking)
        assert write(messages, asking=asking) == wanted


@pytest.mark.parametrize(
    ("template", "asked", "said"),
    [
        (CHAT_ML, "<|im_start|>user\n Wren? <|im_end|>\n<|im_start|>assistant\n", "Brown."),
        (HEADERS, "<|head|>user<|/head|>\n\nWren?<eos><|head|>assistant<|/head|>\n\n", "Brown."),
        (THINKING, "Wren? <|im_end|>\n<|im_start|>assistant\n", "<think>\n\n</think>\n\nBrown."),
    ],
)
def test_it_is_cut_before_the_last_question_and_before_the_answer(folder, template, asked, said):
    path, tokenizer = folder(template)
    end = "<|im_end|>" if template != HEADERS else gsm_bpe.EOS
    parts = split_conversation(chat_template(str(path)), MESSAGES, end)
    assert parts[1:] == (asked.replace("<eos>", gsm_bpe.EOS), said)
    prompt = tokenizer.apply_chat_template(MESSAGES[:-1], tokenize=False, add_generation_prompt=True)
    assert parts[0] + parts[1] == prompt


def test_a_template_that_wants_a_question_has_the_rest_read_up_to_it(folder):
    path, _ = folder(THINKING)
    read, asked, _ = split_conversation(chat_template(str(path)), [MESSAGES[0], *MESSAGES[3:]], "<|im_end|>")
    assert read.endswith("<|im_start|>user\n ") and asked == "Wren? <|im_end|>\n<|im_start|>assistant\n"


def test_a_task_takes_the_template_of_its_tokenizer(folder, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text((json.dumps({"messages": MESSAGES}) + "\n") * 3)
    for path in (folder(HEADERS)[0], folder(HEADERS)[0]):
        texts = TextQA(str(data), tokenizer=str(path)).texts(json.dumps({"messages": MESSAGES}))
        assert "<|head|>user<|/head|>\n\nWren?" in texts[1]
    plain = TextQA(str(data), tokenizer=str(folder(None)[0]))
    assert plain.texts(json.dumps({"messages": MESSAGES}))[1].startswith("<|im_start|>user\n Wren? <|im_end|>\n")
    own = TextQA(str(data), tokenizer=str(path), message="<{role}>{content}\n")
    assert own.texts(json.dumps({"messages": MESSAGES}))[1] == "<user> Wren? \n<assistant>"


def test_of_several_templates_the_default_is_taken(folder):
    path, _ = folder(None)
    config = json.loads((path / "tokenizer_config.json").read_text())
    named = [{"name": "tools", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}yes"}]
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    write = chat_template(str(path))
    assert write is not None and write([]) == "<s>yes"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% nope %}", "the chat template of .* cannot be read: Encountered unknown tag 'nope'."),
        (
            "{{ raise_exception('roles must alternate') }}",
            "the chat template of .* refuses the messages: roles must .*",
        ),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "the chat template of .* refuses the messages: .* unsafe.*"),
        ("{% for i in range(10**9) %}x{% endfor %}", "the chat template of .* refuses the messages: Range too big.*"),
    ],
)
def test_a_bad_template_is_one_sentence_and_no_code(folder, template, sentence):
    path, _ = folder(template)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        write = chat_template(str(path))
        assert write is not None
        write(MESSAGES)


def test_a_template_that_is_no_text_is_named(folder):
    path, _ = folder(CHAT_ML)
    (path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"\.jinja: must be text in UTF-8, got the byte 0xff at position 0$"):
        chat_template(str(path))
