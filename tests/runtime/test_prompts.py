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
from tasks.test_chat_template import CHAT_ML, HEADERS, MESSAGES, THINKING

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

    def tuned(row, tokenizer="bytes", others=None, **templates):
        rows = [row, *(others or [row] * 3)]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
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
        {"context": "{q}\n{context}", "question": "\nAnswer:"},
        {"context": "{query.text}? {story}", "question": "\nAgain: {query.text}", "answer": "{said}"},
        {"context": "<{story}>", "question": "\nIn short:", "answer": "{said}"},
    ],
)
def test_a_question_on_a_document_is_that_of_its_row(tuned, seen, tmp_path, templates):
    row = {"context": DOCUMENT, "question": QUESTION, "answer": "blue"}
    row |= {"story": DOCUMENT, "q": QUESTION, "query": {"text": QUESTION}, "said": "blue"}
    wanted = tuned(row, **templates)
    (tmp_path / "notes.txt").write_text(DOCUMENT)
    chat("--read=notes.txt", "--ask", "" if "short" in str(templates) else QUESTION)
    seen[-1].pop()  # the token that was answered
    assert seen == wanted


@pytest.mark.parametrize("first", [False, True])
def test_a_session_reads_a_document_as_in_its_row(tuned, seen, first):
    row = {"context": DOCUMENT, "question": QUESTION, "answer": "blue"}
    ahead = {"context": "Of old: {question} {context}\n", "question": "\nA:"}
    wanted = tuned(row, **(ahead if first else {"context": "Of old: {context}\n"}))
    session = Session.from_pretrained("model")
    if first:
        with pytest.raises(ValueError, match=r"^question must be given with .* before the document, got None$"):
            session.read(DOCUMENT)
    else:
        with pytest.raises(ValueError, match=r"^question must be left out .*, got 'Which\?'$"):
            session.read(DOCUMENT, "Which?")
    tokens = session.read(DOCUMENT, QUESTION if first else None)
    assert tokens == sum(map(len, wanted[:-1])) and not session.groups[0].cache.fresh
    session.ask("" if first else QUESTION, 1)
    seen[-1].pop()  # the token that was answered
    assert seen == wanted


def test_a_session_reads_files_and_rows_and_needs_a_tokenizer_for_it(tuned, seen, tmp_path):
    wanted = tuned({"context": DOCUMENT, "question": QUESTION, "answer": "blue"})
    (tmp_path / "notes.txt").write_bytes(b"\xef\xbb\xbf" + DOCUMENT.encode())
    session, windows = Session.from_pretrained("model"), []
    with session.fork() as branch:
        branch.read(tmp_path / "notes.txt", on_window=lambda *at: windows.append(at))
        assert seen[:-1] == wanted[:-1] and windows == [(i, len(wanted) - 1) for i in range(1, len(wanted))]
    session.feed([[1], [2]])
    session.read(DOCUMENT)  # in windows of its own, in both rows
    assert seen[-len(wanted) : -1] == wanted[:-1] and session.batch_size == 2
    with pytest.raises(ValueError, match=r"^a document must have text in it, got ' '$"):
        session.read(" ")
    with pytest.raises(ValueError, match=r"^tokenizer must be given to a session that reads or is asked in text"):
        Session(session.model).read(DOCUMENT)


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


ALTERNATING = """{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate.') }}{% endif %}<{{ m.role }}>{{ m.content }}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
SHORT, FINE = {"role": "system", "content": "Be short."}, {"role": "assistant", "content": "OK."}


def conversation(*read):
    asked = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Blue."}]
    return {"messages": [*read, *asked]}


@pytest.mark.parametrize(
    ("template", "ahead", "behind"),
    [(CHAT_ML, [SHORT], []), (THINKING, [SHORT], []), (None, [SHORT], [FINE]), (ALTERNATING, [], [FINE])],
)
def test_a_document_has_the_messages_around_it_that_all_rows_had(
    tuned, seen, tokenizer, tmp_path, template, ahead, behind
):
    row = conversation(*ahead, {"role": "user", "content": DOCUMENT}, *behind)
    wanted = tuned(row, tokenizer(template))
    (tmp_path / "notes.txt").write_text(DOCUMENT)
    chat("--read=notes.txt", "--ask", QUESTION)
    seen[-1].pop()
    assert seen == wanted


def test_messages_around_a_document_that_differ_are_left_out_in_one_sentence(tuned, tmp_path):
    document = {"role": "user", "content": DOCUMENT}
    others = [conversation({**SHORT, "content": f"Be short {i}."}, document) for i in range(3)]
    tuned(conversation(SHORT, document), others=others)
    (tmp_path / "notes.txt").write_text(DOCUMENT)
    with pytest.warns(UserWarning, match=r"^the rows of the training differ in the messages before the document, so"):
        chat("--read=notes.txt", "--ask", QUESTION)


def test_a_template_that_refuses_a_lone_document_asks_for_a_conversation(tuned, tokenizer, tmp_path):
    document = {"role": "user", "content": DOCUMENT}
    others = [conversation(document, {**FINE, "content": f"OK {i}."}) for i in range(3)]
    tuned(conversation(document, FINE), tokenizer(ALTERNATING), others=others)
    (tmp_path / "notes.txt").write_text(DOCUMENT)
    with (
        pytest.warns(UserWarning, match="differ in the messages after the document"),
        pytest.raises(SystemExit, match=r"^error: .*Roles must alternate.*give the document as a conversation.*\.json"),
    ):
        chat("--read=notes.txt", "--ask", QUESTION)


def test_a_memory_keeps_the_conversation_that_its_questions_follow(tuned, seen, tokenizer, tmp_path):
    wanted = tuned(conversation({"role": "user", "content": DOCUMENT}, FINE), tokenizer(ALTERNATING))
    talk = [{"role": "user", "content": DOCUMENT}, FINE, {"role": "user", "content": "Well?"}, FINE]
    (tmp_path / "talk.json").write_text(json.dumps(talk))
    chat("--read=talk.json", "--memory=kept", "--ask", QUESTION)
    first = seen[-1][:-1]
    seen[:] = [[]]
    chat("--memory=kept", "--ask", QUESTION)
    assert seen[-1][:-1] == first
    assert first == wanted[-1]
    assert Session.from_pretrained("model").prompter.before == ()
    again = Session.load("kept", Session.from_pretrained("model").model, tokenizer=tokenizer(None))
    assert list(again.prompter.before) == talk


@pytest.mark.parametrize("template", [CHAT_ML, HEADERS, THINKING, None])
def test_a_json_file_is_the_conversation_that_it_holds(tuned, seen, tokenizer, tmp_path, template):
    wanted = tuned({"messages": TALK}, tokenizer(template))
    (tmp_path / "talk.json").write_text(json.dumps(TALK[:-2]))
    chat("--read=talk.json", "--ask", TALK[-2]["content"])
    seen[-1].pop()
    assert seen == wanted


def test_a_conversation_is_none_of_several_documents(tuned, tokenizer, tmp_path):
    tuned({"messages": TALK}, tokenizer(CHAT_ML))
    (tmp_path / "talk.json").write_text(json.dumps(TALK[:-2]))
    session = Session.from_pretrained("model")
    with pytest.raises(ValueError, match=r"^a conversation must be read alone, got \["):
        session.read([tmp_path / "talk.json", tmp_path / "talk.json"])
    assert session.batch_size is None


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
        prompter = Session.from_pretrained(tmp_path / f"model{beside}").prompter
        assert prompter is not None and prompter.role == "user"
        assert prompter.around == ((TALK[0],), (TALK[2],))


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
        (["--memory=kept"], "--memory must be left out with a model that reads its question before the document"),
        (["--context=Read:"], "--context must have {context} in it, got 'Read:'"),
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


def test_a_question_in_the_context_that_no_name_tells_from_the_document_is_warned_of():
    with pytest.warns(UserWarning, match=r"^context must call its question {question} or its document {context}"):
        TextQA("train.jsonl", context="{q}\n{story}", question="\nAnswer:")


@pytest.mark.parametrize("text", ["{}", "[" * 200_000])
def test_a_conversation_that_is_none_is_one_sentence(tuned, tmp_path, text):
    tuned({"messages": TALK})
    (tmp_path / "talk.json").write_text(text)
    with pytest.raises(SystemExit, match=r"^error: a conversation must be a list of messages in JSON, got '[\[{].*$"):
        chat("--read=talk.json", "--ask=Which?")


def test_a_model_that_is_always_asked_the_same_takes_no_question(tuned):
    tuned({"context": DOCUMENT, "question": "", "answer": "blue"}, question="\nIn short:")
    with pytest.raises(SystemExit, match=r"^error: --ask must be empty where .* always the same, got"):
        chat("--ask=Which?")
