"""The chat says what a `Session` says, keeps what it read, and shows windows, sleeps and passes."""

import io
import json
import os
import re
import warnings

import pytest
import torch
from rich.console import Console

from lmsleep import Session
from lmsleep.cli import main
from lmsleep.hub import tokenizer_files
from lmsleep.runtime.answer import printable
from lmsleep.runtime.chat import open_chat
from lmsleep.runtime.terminal import Chat
from lmsleep.settle import Settle

TEXT = "The wren by the mill is blue. The mole is pink."


@pytest.fixture
def folder(build, tmp_path, monkeypatch):
    """The folder of a model over bytes, windows of six, trained (it says) with N = 3 on TextQA; two documents."""
    monkeypatch.chdir(tmp_path)
    task = {"class_path": "lmsleep.tasks.TextQA", "init_args": {"question": "Q: {question} A:"}}
    model = build("AG", vocab_size=257, dtype=torch.float32)
    model.save_pretrained("model", trained={"n_passes": 3, "task": task}, files=tokenizer_files("bytes"))
    (tmp_path / "one.txt").write_text(TEXT)
    (tmp_path / "two.txt").write_text(TEXT[::-1])
    (tmp_path / "empty.txt").write_text("\n")
    return tmp_path / "model"


def answer(folder, *questions, texts=(TEXT,)):
    """What a session says to the last question, without the spaces before it, as a terminal shows it."""
    session = Session.from_pretrained(folder)
    for text in texts:
        session.feed(text)
        session.sleep()
    said = [session.ask(question, 12) for question in questions]
    return printable(said[-1].lstrip())


def run(*words):
    main(["chat", "--model=model", "--max_new_tokens=12", *words])


def test_one_question_prints_its_answer_alone(folder, capsys):
    run("--read", "one.txt", "two.txt", "--ask", "Which?")
    said = capsys.readouterr()
    assert said.out == answer(folder, "Which?", texts=(TEXT, TEXT[::-1])) + "\n"
    # 47 tokens are seven windows and a rest, which is slept on too.
    for name in ("one.txt", "two.txt"):
        assert re.search(rf"{name} .* 100% 8 windows, 8 sleeps", said.err)


def test_one_window_is_one_window(folder, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("Wren")
    run("--read", "short.txt", "--ask", "Which?")
    assert re.search(r"short\.txt .* 100% 1 window, 1 sleep ", capsys.readouterr().err)


def test_a_document_that_is_no_text_is_named(folder, tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(SystemExit, match=r"^error: x\.png: must be text in UTF-8, got the byte 0x89 at position 0$"):
        run("--read", "x.png", "--ask", "Which?")


def test_a_line_end_in_a_template_is_written_with_a_backslash(folder):
    templates: dict = {"context": None, "question": r"\nQ: {question}\\n"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none of what was written on purpose
        session = open_chat("model", None, None, None, None, None, templates)
    assert session.prompter.prompts("Why?") == ["\nQ: Why?\\n"]


def test_files_may_be_named_one_by_one(folder, capsys):
    run("--read", "one.txt", "--read=two.txt", "--ask", "Which?")
    said = capsys.readouterr()
    assert said.out == answer(folder, "Which?", texts=(TEXT, TEXT[::-1])) + "\n"
    assert "one.txt" in said.err and "two.txt" in said.err


def test_a_memory_goes_on_from_what_was_read_and_keeps_no_question(folder, capsys):
    run("--read=one.txt", "--memory=kept", "--ask=Which?")
    before = (folder.parent / "kept").read_bytes()
    first = capsys.readouterr().out
    run("--memory=kept", "--ask=Which?")
    assert capsys.readouterr().out == first == answer(folder, "Which?") + "\n"
    assert (folder.parent / "kept").read_bytes() == before
    run("--memory=kept", "--read=two.txt", "--ask=Which?")
    assert capsys.readouterr().out == answer(folder, "Which?", texts=(TEXT, TEXT[::-1])) + "\n"


def test_options_replace_those_of_the_training(folder, capsys):
    run("--read=one.txt", "--ask=Which?", "--n_passes=1", "--eviction=sliding", "--question={question}")
    session = Session(Session.from_pretrained(folder).model, 1, "sliding", tokenizer="bytes")
    session.feed(TEXT)
    assert capsys.readouterr().out == printable(session.ask("Which?", 12)) + "\n"


def test_another_sleep_is_that_of_a_session_and_of_its_memory(folder, capsys):
    settle = ("--on_overflow=lmsleep.settle.Settle", "--on_overflow.threshold=0.05", "--on_overflow.most=5")
    session = Session(Session.from_pretrained(folder).model, on_overflow=Settle(0.05, 5), tokenizer="bytes")
    session.feed(TEXT)
    session.sleep()
    said = printable(session.ask("Which?", 12)) + "\n"
    run("--read=one.txt", "--memory=kept", "--ask=Which?", "--question={question}", *settle)
    assert capsys.readouterr().out == said != answer(folder, "Which?") + "\n"
    run("--memory=kept", "--ask=Which?", "--question={question}", *settle)
    assert capsys.readouterr().out == said
    with pytest.raises(SystemExit, match=r"^error: --on_overflow must be lmsleep\.settle\.Settle.*, got null$"):
        run("--memory=kept", "--ask=Which?")


def test_what_sleeps_is_said_and_no_number_of_passes(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("/stats\n"))
    run("--read=one.txt", "--on_overflow=lmsleep.settle.forget")
    said = " ".join("".join(capsys.readouterr()).split())
    assert "forget, hard eviction. /help" in said and re.search(r"sleeps . 8, [\d.]+ s", said) and "passes" not in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--read", "gone.txt"], "--read must name files, but there is none at 'gone.txt'"),
        (["--model=nope"], "--model must be a folder or a name on the Hugging Face hub (owner/model), and there is no"),
        (["--top_p=0"], "--top_p must be above 0 and at most 1, got 0.0"),
        (["--max_new_tokens=0"], "--max_new_tokens must be 1 or more, got 0"),
        (["--n_passes=0"], "--n_passes must be 1 or more"),
        (["--on_overflow=lmsleep.settle.forget", "--n_passes=2"], "--n_passes must be left out beside on_overflow"),
        (
            ["--on_overflow=lmsleep.settle.Settle", "--on_overflow.threshold=-1", "--on_overflow.most=2"],
            "threshold must be 0 or more, got -1.0",
        ),
        (["--question=what?"], "--question must have {question} in it, got 'what?'"),
        (["--memory=one.txt"], "--memory must be a saved memory"),
        (["--read=one.txt", "--memory=no/where"], "--memory must lie in a folder that exists, got 'no/where'"),
        (["--read=one.txt", "--memory=model"], "--memory must be a regular file, got 'model'"),
        (["--read=model/model.safetensors"], "model/model.safetensors: must be text in UTF-8, got the byte"),
        (["--read=/dev/null"], "--read must name files, but there is none at '/dev/null'"),
        (["--read=empty.txt"], "empty.txt: a document must have text in it, got '\\n'"),
        (["--tokenizer=gone"], "--tokenizer must be a folder or a name"),
    ],
)
def test_a_bad_value_is_one_sentence(folder, words, sentence):
    with pytest.raises(SystemExit, match=f"^error: {re.escape(sentence)}"):
        run(*words, "--ask=Which?")


def test_a_pipe_is_no_memory(folder):
    """Refused before the document is read; the file would take the place of the pipe."""
    os.mkfifo("pipe")
    with pytest.raises(SystemExit, match=r"^error: --memory must be a regular file, got 'pipe'$"):
        run("--read=one.txt", "--memory=pipe", "--ask=Which?")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ask="], "--ask must have text in it, got ''"),
        (["--ask= "], "--ask must have text in it, got ' '"),
        (["--ask=", "--context={question}{context}", "--question=A:"], "--ask must have text in it, got ''"),
        (["--question=what?", "--ask=Which?"], "--question must have {question} in it, got 'what?'"),
        (["--tokenizer=gone", "--ask=Which?"], "--tokenizer must be a folder or a name"),
    ],
)
def test_what_needs_no_weights_is_checked_before_they_are_read(folder, monkeypatch, words, sentence):
    monkeypatch.setattr("lmsleep.HybridLM.from_pretrained", lambda *_, **__: pytest.fail("the weights were read"))
    with pytest.raises(SystemExit, match=f"^error: {re.escape(sentence)}"):
        run("--read=one.txt", *words)


def test_a_memory_has_its_own_passes_and_a_model_without_tokenizer_asks_for_one(folder, build, capsys):
    run("--read=one.txt", "--memory=kept", "--ask=Which?")
    with pytest.raises(
        SystemExit, match=r"^error: --n_passes must be left out with a memory, which goes on as it was, got 2"
    ):
        run("--memory=kept", "--n_passes=2", "--ask=Which?")
    build("AG", vocab_size=257, dtype=torch.float32).save_pretrained("bare")
    with pytest.raises(
        SystemExit, match=r"^error: --tokenizer must be given, since there is no tokenizer\.json in bare"
    ):
        main(["chat", "--model=bare", "--ask=Which?"])
    main(["chat", "--model=bare", "--tokenizer=bytes", "--ask=Which?", "--max_new_tokens=3"])


def test_a_memory_of_another_model_is_refused_in_one_sentence(folder, build):
    run("--read=one.txt", "--memory=kept", "--ask=Which?")
    build("AG", vocab_size=257, window_size=9, dtype=torch.float32).save_pretrained(folder)
    refusal = "error: --model must be the one that wrote the memory: its window_size was 6, got 9"
    with pytest.raises(SystemExit, match=f"^{refusal}$"):
        run("--memory=kept", "--ask=Which?")


@pytest.fixture
def talk(folder):
    """talk(*lines): what is answered and logged when these lines are typed after the first document, and S then."""

    def talk(*lines):
        out, log = (Console(file=io.StringIO(), width=200) for _ in range(2))
        chat = Chat(Session.from_pretrained(folder), 12, {}, out, log)
        typed = iter(["/read one.txt", *lines])

        def line(prompt):
            try:
                return next(typed)
            except StopIteration:
                raise EOFError from None

        chat.loop(line)
        return out.file.getvalue(), log.file.getvalue(), chat.session.fast_weights[0]

    return talk


def test_questions_are_remembered_and_those_of_a_fork_are_not(folder, talk):
    out, _, S = talk("Which?", "Where?")
    both, where = Session.from_pretrained(folder), Session.from_pretrained(folder)
    for session in (both, where):
        session.feed(TEXT)
    said = [printable(both.ask(question, 12)) for question in ("Which?", "Where?")]
    assert out == "\n".join([*said, ""]) and torch.equal(S, both.fast_weights[0])
    out, _, S = talk("/fork", "Which?", "/back", "Where?")
    assert out == f"{said[0]}\n{printable(where.ask('Where?', 12))}\n"
    assert torch.equal(S, where.fast_weights[0]) and not torch.equal(S, both.fast_weights[0])


def test_each_question_is_a_reading_of_its_own_where_it_comes_before_the_document(folder, talk):
    config = json.loads((folder / "config.json").read_text())
    config["trained"]["task"]["init_args"] = {"context": "{question}: {context}", "question": "So:"}
    (folder / "config.json").write_text(json.dumps(config))
    said = []
    for question in ("Which?", "Where?"):
        session = Session(Session.from_pretrained(folder).model, 3, tokenizer="bytes")
        session.feed(f"{question}: {TEXT}")
        said.append(printable(session.ask("So:", 12)))
    out, log, S = talk("Which?", "/fork", "/forget", "/back", "Where?")
    assert out == "\n".join([*said, ""]) and not S.any() and "one.txt: is read once its question is known" in log


def test_a_sleep_within_an_answer_does_not_break_its_line(folder):
    """In one terminal: the sleep before the answer is told before it, those within it behind."""
    terminal, typed = Console(file=io.StringIO(), width=200), iter(["Which?", "/quit"])
    Chat(Session.from_pretrained(folder), 12, {}, terminal, terminal).loop(lambda _: next(typed))
    session = Session.from_pretrained(folder)
    said = printable(session.ask("Which?", 12))
    lines = terminal.file.getvalue().splitlines()
    assert said in lines and sum("slept on 6 tokens" in line for line in lines) == (len("Q: Which? A:") + 12 - 1) // 6


def test_ctrl_c_within_a_reading_ends_that_alone(folder, talk, monkeypatch):
    """Once at the prompt: what was read by then is kept. In a command: no traceback, and what a shell expects."""
    feed, windows = Session.feed, iter(range(99))

    def some(*args, **kwargs):
        if next(windows) == 10:  # of one.txt all eight, of two.txt two
            raise KeyboardInterrupt
        return feed(*args, **kwargs)

    monkeypatch.setattr(Session, "feed", some)
    out, log, _ = talk("/read two.txt", "Which?")
    assert "stopped; what was read by then is kept" in log
    assert out == answer(folder, "Which?", texts=(TEXT, TEXT[:-13:-1])) + "\n"
    windows = iter([10])
    with pytest.raises(SystemExit) as ended:
        run("--read=one.txt", "--ask=Which?")
    assert ended.value.code == 130


def test_ctrl_c_within_an_answer_ends_its_line(folder, talk, monkeypatch, capsys):
    """At the prompt the talk goes on. Of a command the half of an answer is no success."""

    def half(self, question, *_, **__):
        yield "blue"
        if question == "Which?":
            raise KeyboardInterrupt

    monkeypatch.setattr(Session, "stream", half)
    out, log, _ = talk("Which?", "Where?")
    assert out == "blue\nblue\n" and "stopped; what was read by then is kept" in log
    with pytest.raises(SystemExit) as ended:
        run("--ask=Which?")
    assert ended.value.code == 130 and capsys.readouterr().out == "blue\n"


@pytest.mark.parametrize("before", [(), ("Where?",)])
def test_forgetting_is_a_clean_start(folder, talk, before):
    """A question that was asked stands in the window, where the next sleep would write it into S again."""
    session = Session.from_pretrained(folder)
    said, _, S = talk(*before, "/forget", "Which?")
    assert said.endswith(printable(session.ask("Which?", 12)) + "\n")
    assert torch.equal(S, session.fast_weights[0])


def test_a_saved_memory_is_that_of_the_session(folder, talk):
    _, log, _ = talk("/save kept")
    session = Session.from_pretrained(folder)
    session.feed(TEXT)
    session.sleep()
    kept = Session.load("kept", session.model)
    assert torch.equal(kept.fast_weights[0], session.fast_weights[0])
    assert f"kept: {session.nbytes:,} bytes of memory" in log


def test_stats_count_tokens_sleeps_and_passes(talk):
    _, log, _ = talk("/stats")
    for name, value in {"documents read": "47 tokens", "sleeps": "8, 24 passes", "window": "0 of 6 tokens"}.items():
        assert re.search(rf"{name} +│ {value}", log)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/read", "error: /read must name a file"),
        ("/read gone.txt", "error: there is no file or folder 'gone.txt'"),
        ("/read ~nobody-is-called-so", "error: there is no file or folder '~nobody-is-called-so'"),
        ("/save no/where", "error: path must lie in a folder that exists"),
        ("/back", "error: there is no command /back here"),
        ("/dance", "error: there is no command /dance here; /help lists them"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_talk_goes_on(folder, talk, line, sentence):
    out, log, _ = talk(line, "", "Which?", "/quit", "Where?")
    assert sentence in log and out == answer(folder, "Which?") + "\n"
