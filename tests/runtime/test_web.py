"""The page of `lmsleep chat --web`: two memories of one model, what it shows of them, and gradio around it."""

import re

import pytest
import torch

from lmsleep import Session
from lmsleep.cli import main
from lmsleep.hub import tokenizer_files
from lmsleep.runtime import chat, web
from lmsleep.runtime.web import SessionPair, ShownWindow, changes_html, page, stream_html

TEXT = "The wren by the mill is <b>blue</b>. ü"


@pytest.fixture
def session(build, tmp_path):
    """Of a model over bytes, windows of six, N = 3."""
    model = build("AG", vocab_size=257, dtype=torch.float32)
    task = {"class_path": "lmsleep.tasks.TextQA", "init_args": {"context": "[{context}]", "question": "{question}?"}}
    model.save_pretrained(tmp_path / "model", trained={"n_passes": 3, "task": task}, files=tokenizer_files("bytes"))
    return Session.from_pretrained(tmp_path / "model")


def alone(session, n_passes, question):
    """What a session says that read the text and sleeps with N passes, and how each sleep changed S."""
    events = []
    one = Session(session.model, n_passes, tokenizer="bytes", callbacks=[events.append])
    one.feed(f"[{TEXT}]")
    one.sleep()
    changes = [event.change for event in events if event.done]
    return one.ask(f"{question}?", 9), changes


def test_a_pair_answers_as_two_sessions_do_and_questions_leave_no_trace(session):
    pair = SessionPair(session, 3)
    steps = [len(pair.windows) for _ in pair.read(TEXT)]
    n = -(-len(f"[{TEXT}]".encode()) // 6)
    assert steps == [at for at in range(1, n + 1) for _ in ("awake", "asleep")]
    for question in ("Which", "Where", "Which"):
        assert len(list(pair.ask(question, 9, {}))) > 1
        assert pair.answers == (alone(session, 1, question)[0], alone(session, 3, question)[0])
    changes = alone(session, 3, "Which")[1]
    assert [window.changes for window in pair.windows] == [tuple(layer for (layer,) in one) for one in changes]


def test_a_file_is_read_as_the_text_in_it_and_where_the_question_comes_first_for_each_anew(session, tmp_path):
    (tmp_path / "one.txt").write_text(TEXT)
    pair = SessionPair(session, 2)
    list(pair.read(tmp_path / "one.txt"))
    list(pair.ask("Which", 9, {}))
    assert pair.answers == (alone(session, 1, "Which")[0], alone(session, 2, "Which")[0])
    task = type(session.prompter.task)("", context="{question} {context}", question=":")
    session.prompter = type(session.prompter)(session.prompter.tokenizer, task, stop=session.prompter.stop)
    pair = SessionPair(session, 2)
    for part in (TEXT, tmp_path / "one.txt"):
        list(pair.read(part))
    for question in ("Which", "Where"):
        list(pair.ask(question, 9, {}))
        for said, n_passes in zip(pair.answers, (1, 2), strict=True):
            one = Session(session.model, n_passes, tokenizer="bytes")
            for _ in range(2):
                one.feed(f"{question} {TEXT}")
                one.sleep()
            assert said == one.ask(":", 9)
    assert [window.changes is None for window in pair.windows] == [False] * len(pair.windows)


def test_the_stream_frames_the_window_that_is_awake_and_obeys_no_text():
    html = stream_html([ShownWindow("<b>a</b>", (0.1,)), ShownWindow("b")])
    assert "<sup>1</sup>&lt;b&gt;a&lt;/b&gt;</span>" in html and '<span class="awake"><sup>2</sup>b</span>' in html
    many = stream_html([ShownWindow("a", ())] * 1000)
    assert many.count("<span") == web.MAX_WINDOWS and f"{1000 - web.MAX_WINDOWS} windows before" in many


def test_the_table_has_a_row_a_window_and_a_column_a_pass():
    html = changes_html([ShownWindow("a", (0.4, 0.1)), ShownWindow("b", (0.2, 0.05)), ShownWindow("c")])
    cells = [re.findall(r">([^<>]+)</t[hd]>", row) for row in html.split("</tr>")[:-1]]
    assert cells == [["window", "pass 2", "pass 3"], ["2", "20.0%", "5.0%"], ["1", "40.0%", "10.0%"]]
    assert changes_html([ShownWindow("a", ()), ShownWindow("b")]).startswith("None was made: with N = 1")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ask=Which?"], "--ask must be left out with web, got 'Which?'"),
        (["--memory", "kept"], "--memory must be left out with web, got 'kept'"),
    ],
)
def test_what_a_page_has_no_use_for_is_one_sentence(monkeypatch, words, sentence):
    monkeypatch.setattr(chat, "find_spec", lambda name: name)
    with pytest.raises(SystemExit, match=f"^error: {re.escape(sentence)}$"):
        main(["chat", "--model=gone", "--web", *words])


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(chat, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r'^error: web needs gradio: pip install "lmsleep\[web\]"$'):
        main(["chat", "--web", "--model=gone"])


def test_the_page_reads_and_answers(session, tmp_path):
    pytest.importorskip("gradio")
    from gradio_client import Client, handle_file

    (tmp_path / "one.txt").write_text(TEXT)
    blocks = page(session, [], 9, {})
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True)
    try:
        client = Client(url, verbose=False)
        client.predict(2, api_name="/begin")
        stream, changes, *_ = client.predict("", [handle_file(tmp_path / "one.txt")], api_name="/read")
        assert "&lt;b&gt;" in stream and "pass 2" in changes and "pass 3" not in changes
        *_, awake, asleep = client.predict("Which", api_name="/ask")
        assert (awake, asleep) == (alone(session, 1, "Which")[0], alone(session, 2, "Which")[0])
    finally:
        blocks.close()
