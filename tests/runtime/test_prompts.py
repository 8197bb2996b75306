"""What a model reads and is asked in `lmsleep chat`, token for token that of the row it was trained on."""

import json
import re
from pathlib import Path

import gsm_bpe
import pytest
import torch
from checkpoints import ouro_shapes, random_weights, tiny_ouro, write
from transformers import PreTrainedTokenizerFast

from lmsleep import Session
from lmsleep.cli import main
from lmsleep.hub import tokenizer_files
from lmsleep.tasks import IGNORE, TextQA
from lmsleep.tasks.spec import task_spec
from tasks.test_chat_templates import CHAT_ML, HEADERS, MESSAGES, THINKING

L = 90
TALK = [{**message, "content": message["content"].strip()} for message in MESSAGES]
DOCUMENT, QUESTION = "The wren by the mill is {blue}. The mole is pink.\n", "Which {colour} is the wren?"


@pytest.fixture
def seen(monkeypatch):
    """The windows that sessions read, as lists of tokens: a sleep ends one."""
    windows = [[]]
    read, sleep = Session._read, Session.sleep

    def reads(self, rows, last_only):
        windows[-1].extend(rows.tokens[0].tolist())
        return read(self, rows, last_only)

    def sleeps(self):
        windows.extend([[]] if windows[-1] else [])
        sleep(self)

    monkeypatch.setattr(Session, "_read", reads)
    monkeypatch.setattr(Session, "sleep", sleeps)
    return windows


def windows_of(batch):
    """What the only row of a batch has in each window, up to where the answer begins."""
    tokens, targets, _, mask = (x[0] for x in batch)
    begins = int((targets != IGNORE).nonzero()[0]) + 1
    windows = zip(tokens[:begins].split(L), mask[:begins].split(L), strict=True)
    return [window[real].tolist() for window, real in windows]


@pytest.fixture
def tuned(build, tmp_path, monkeypatch):
    """tuned(row, tokenizer, **templates): the folder `model` of a model trained (it says) on such a row; and what the
    row has in each window, up to where the answer begins."""
    monkeypatch.chdir(tmp_path)

    def tuned(row, tokenizer="bytes", **templates):
        (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n" + (json.dumps(row) + "\n") * 3)
        task = TextQA("train.jsonl", tokenizer=tokenizer, window_size=L, **templates)
        model = build("AG", vocab_size=task.vocab_size, window_size=L, dtype=torch.float32)
        trained = {"n_passes": 2, "task": json.loads(json.dumps(task_spec(task)))}
        model.save_pretrained("model", trained=trained, files=tokenizer_files(tokenizer, task.eos_token))
        return windows_of(task.rows(split="test", seed=0, step=0, batch_size=1))

    return tuned


def chat(*words):
    main(["chat", "--model=model", "--max_new_tokens=1", *words])


@pytest.mark.parametrize(
    "templates",
    [
        {},
        {"context": "Of old: {story}\n", "question": "\nQ: {query.text} {query.text}\nA:", "answer": "{said}"},
        {"context": "{question}\n{context}", "question": "\nAnswer:"},
        {"context": "{query.text}? {story}", "question": "\nAgain: {query.text}", "answer": "{said}"},
        {"context": "<{story}>", "question": "\nIn short:", "answer": "{said}"},
    ],
)
def test_a_question_on_a_document_is_that_of_its_row(tuned, seen, tmp_path, templates):
    row = {"context": DOCUMENT, "question": QUESTION, "answer": "blue"}
    row |= {"story": DOCUMENT, "query": {"text": QUESTION}, "said": "blue"}
    wanted = tuned(row, **templates)
    (tmp_path / "notes.txt").write_text(DOCUMENT)
    chat("--read=notes.txt", "--ask", "" if "short" in str(templates) else QUESTION)
    seen[-1].pop()  # the token that was answered
    assert seen == wanted


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """tokenizer(template): a folder of one with this chat template."""
    bpe = gsm_bpe.train_bpe(tmp_path_factory.mktemp("bpe"))

    def tokenizer(template):
        made = PreTrainedTokenizerFast(tokenizer_file=bpe, eos_token=gsm_bpe.EOS, bos_token="<s>")
        made.chat_template = template
        path = tmp_path_factory.mktemp("tokenizer")
        made.save_pretrained(path)
        return str(path)

    return tokenizer


@pytest.mark.parametrize("template", [CHAT_ML, HEADERS, THINKING, None])
@pytest.mark.parametrize("roles", [["system"], ["user"]])
def test_a_document_is_a_message_where_the_rows_are_conversations(tuned, seen, tokenizer, tmp_path, template, roles):
    messages = [{"role": role, "content": DOCUMENT} for role in roles]
    asked = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Blue."}]
    wanted = tuned({"messages": messages + asked}, tokenizer(template))
    (tmp_path / "notes.txt").write_text(DOCUMENT)
    chat("--read=notes.txt", "--ask", QUESTION)
    seen[-1].pop()
    assert seen == wanted


@pytest.mark.parametrize("template", [CHAT_ML, HEADERS, THINKING, None])
def test_a_json_file_is_the_conversation_that_it_holds(tuned, seen, tokenizer, tmp_path, template):
    wanted = tuned({"messages": TALK}, tokenizer(template))
    (tmp_path / "talk.json").write_text(json.dumps(TALK[:-2]))
    chat("--read=talk.json", "--ask", TALK[-2]["content"])
    seen[-1].pop()
    assert seen == wanted


def test_the_role_of_a_document_goes_from_the_rows_into_the_exported_folder(tmp_path, empty_folder):
    (tmp_path / "train.jsonl").write_text((json.dumps({"messages": TALK}) + "\n") * 9)
    sizes = ["--model.model.d_model=16", "--model.model.pattern=AG", "--model.model.n_heads=2"]
    trainer = ["max_steps=1", "accelerator=cpu", "logger=false", "enable_progress_bar=false"]
    task = ["--data.task=TextQA", "--data.task.init_args.train=train.jsonl", "--data.task.init_args.window_size=120"]
    short = [*sizes, *(f"--trainer.{option}" for option in trainer), "--data.batch_size=2", "--data.eval_rows=2"]
    main(["fit", *task, *short, "--sleep.n_passes=2", "--checkpoint.dirpath=run"])
    for beside in (True, False):  # with config.yaml and without
        if not beside:
            (tmp_path / "run/config.yaml").unlink()
        main(["export", "--ckpt=run/last.ckpt", f"--out=model{beside}"])
        speech = Session.from_pretrained(tmp_path / f"model{beside}").speech
        assert speech is not None and speech.role == "user"


def test_a_fine_tuned_model_is_asked_in_chat_as_it_was_trained(tokenizer, seen, tmp_path, empty_folder):
    """`lmsleep finetune` on conversations, with a chat template of the model's own."""
    folder, config = tokenizer(HEADERS), tiny_ouro() | {"vocab_size": 902}
    write(Path(folder), config, random_weights(ouro_shapes(config)))
    lines = [{"messages": [*TALK[1:3], TALK[3], {"role": "assistant", "content": str(i)}]} for i in range(9)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    short = ["--steps=1", f"--window={L}", "--n_passes=2", "--batch_size=2", "--trainer.accelerator=cpu"]
    main(["finetune", f"--model={folder}", "--data=train.jsonl", "--out=model", *short])
    seen[:] = [[]]
    (tmp_path / "talk.json").write_text(json.dumps(TALK[1:3]))
    chat("--read=talk.json", "--ask", TALK[3]["content"])
    seen[-1].pop()
    batch = TextQA("train.jsonl", tokenizer=folder, window_size=L).rows(split="test", seed=0, step=0, batch_size=1)
    assert seen == windows_of(batch)


def test_the_files_of_a_tokenizer_hold_its_chat_template(tokenizer):
    assert tokenizer_files(tokenizer(THINKING))["chat_template.jinja"] == THINKING
    assert "chat_template.jinja" not in tokenizer_files(tokenizer(None))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--memory=kept"], "memory must be left out with a model that reads its question before the document"),
        (["--context=Read:"], "context must have {context} in it, got 'Read:'"),
    ],
)
def test_what_a_model_that_is_asked_first_cannot_do_is_one_sentence(tuned, words, sentence):
    row = {"context": DOCUMENT, "question": QUESTION, "answer": "blue"}
    tuned(row, context="{question}\n{context}", question="\nAnswer:")
    with pytest.raises(SystemExit, match=f"^error: {re.escape(sentence)}$"):
        chat("--ask=Which?", *words)


def test_a_template_with_more_than_a_document_and_a_question_names_what_is_missing(tuned):
    row = {"context": DOCUMENT, "question": QUESTION, "answer": "blue", "choices": "blue or red"}
    tuned(row, question="{question} ({choices})")
    with pytest.raises(SystemExit, match=r"^error: must have the field 'choices', got context, question, answer$"):
        chat("--ask=Which?")
    chat("--ask=Which?", "--question=Q: {question} A:")


@pytest.mark.parametrize("text", ["{}", "[" * 200_000])
def test_a_conversation_that_is_none_is_one_sentence(tuned, tmp_path, text):
    tuned({"messages": TALK})
    (tmp_path / "talk.json").write_text(text)
    with pytest.raises(SystemExit, match=r"^error: a conversation must be a list of messages in JSON, got '[\[{].*$"):
        chat("--read=talk.json", "--ask=Which?")


def test_a_model_that_is_always_asked_the_same_takes_no_question(tuned):
    tuned({"context": DOCUMENT, "question": "", "answer": "blue"}, question="\nIn short:")
    with pytest.raises(SystemExit, match=r"^error: question must be empty where .* always the same, got"):
        chat("--ask=Which?")
