"""Text in and out, against a loop over tokens by hand and Python's own UTF-8."""

import re
import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lmsleep import HybridLM, Session, read_windows
from lmsleep.hub import open_tokenizer, tokenizer_files
from lmsleep.runtime.prompter import Prompter
from lmsleep.tasks import TextQA

BYTES = open_tokenizer("bytes")
EOS = BYTES.token_to_id("<eos>")
TEXT = "The wren by the mill is blüe."


@pytest.fixture
def speaker(build):
    """A model over bytes, and a session on it."""
    return build("AG", vocab_size=257, dtype=torch.float32)


def tokens_of(text):
    return BYTES.encode(text).ids


def greedy(model, read, asked, n_new, n_passes):
    """New tokens after `asked` in a window of its own, the rest of the last window of `read` masked, by reading all of
    it again for every token."""
    L = model.window_size
    padding = -len(read) % L
    tokens = torch.tensor([read + [0] * padding + asked])
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, len(read) : len(read) + padding] = False
    with torch.no_grad():
        for _ in range(n_new):
            logits = read_windows(model, tokens, n_passes=n_passes, mask=mask).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
            mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
    return tokens[0, -n_new:].tolist()


def test_ask_sleeps_first_and_answers_as_a_loop_by_hand(speaker):
    session = Session(speaker, 3, tokenizer="bytes")
    session.feed(TEXT)
    said = session.ask("Which?", 9)
    wanted = greedy(speaker, tokens_of(TEXT), tokens_of("Which?"), 9, n_passes=3)
    wanted = wanted[: wanted.index(EOS)] if EOS in wanted else wanted
    assert said == BYTES.decode(wanted)


def test_ask_awake_goes_on_in_the_same_window(speaker):
    session = Session(speaker, 3, tokenizer="bytes")
    session.feed(TEXT)
    fed = Session(speaker, 3)
    wanted = fed.generate([tokens_of(TEXT + "Which?")], 5, temperature=0)[0].tolist()
    wanted = wanted[: wanted.index(EOS)] if EOS in wanted else wanted
    assert session.ask("Which?", 5, asleep=False) == BYTES.decode(wanted)


def test_a_stream_is_the_answer_in_pieces_and_leaves_the_same_memory(speaker):
    whole, streamed = (Session(speaker, 2, tokenizer="bytes") for _ in range(2))
    for session in (whole, streamed):
        session.feed(TEXT)
    said = list(streamed.stream("Which?", 30))
    assert len(said) > 3 and "".join(said) == whole.ask("Which?", 30)
    assert torch.equal(streamed.fast_weights[0], whole.fast_weights[0])


def test_a_stream_checks_before_the_first_piece_is_asked_for(speaker):
    session = Session(speaker, tokenizer="bytes")
    with pytest.raises(ValueError, match="top_p must be above 0"):
        session.stream("Which?", top_p=0)
    assert session.batch_size is None


def test_rows_are_asked_side_by_side(speaker):
    session = Session(speaker, 2, tokenizer="bytes")
    session.feed(TEXT)
    questions = ["Which?", "By what is the wren?"]
    wanted = []
    for question in questions:
        with session.fork() as branch:
            wanted.append(branch.ask(question, 9))
    with session.fork(copies=2) as branch:
        assert branch.ask(questions, 9) == wanted


@pytest.mark.parametrize("stop", ["stop", ("stop", 3)])
def test_a_text_ends_an_answer_and_is_left_out(speaker, stop):
    prompt = tokens_of(TEXT)
    free = Session(speaker, 2, tokenizer="bytes").generate([prompt], 200, temperature=2.0, seed=3)[0].tolist()
    text = bytes_text(free)
    found = re.search(r"(?<=.{9})[!-~]{2,3}", text, re.DOTALL)  # whole characters
    place, ending = found.start(), found[0]
    assert text.index(ending) == place
    stops = ending if stop == "stop" else [ending, "never said"]
    session = Session(speaker, 2, tokenizer="bytes")
    kept = session.generate([prompt], 200, temperature=2.0, seed=3, stop=stops)[0].tolist()
    assert kept == free[: len(kept)] and bytes_text(kept).endswith(ending) and len(kept) < 200
    session = Session(speaker, 2, tokenizer="bytes")
    said = session.ask(TEXT, 200, temperature=2.0, seed=3, stop=stops)
    assert said == text[:place]
    with Session(speaker, 2, tokenizer="bytes").fork() as again:
        assert "".join(again.stream(TEXT, 200, temperature=2.0, seed=3, stop=stops)) == said


def bytes_text(tokens):
    return BYTES.decode([token for token in tokens if token != EOS])


def test_any_of_several_tokens_ends_a_row(build, draw_tokens):
    model, prompt = build("AG"), draw_tokens(4, 5)
    free = Session(model, n_passes=2).generate(prompt, 9, temperature=0).tolist()
    ends = {free[0][2], free[1][4]}
    for stop in (ends, list(ends), np.array(list(ends)), torch.tensor(list(ends), dtype=torch.int32)):
        new = Session(model, n_passes=2).generate(prompt, 9, temperature=0, stop=stop).tolist()
        for got, said in zip(new, free, strict=True):
            n = next((i + 1 for i, token in enumerate(said) if token in ends), len(said))
            assert got == said[:n] + [said[n - 1]] * (len(got) - n)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: PreTrainedTokenizerFast(tokenizer_object=t)])
def test_tokenizers_of_both_libraries_read_the_same(speaker, wrap):
    by_name, given = Session(speaker, tokenizer="bytes"), Session(speaker, tokenizer=wrap(open_tokenizer("bytes")))
    assert torch.equal(by_name.feed(TEXT), given.feed(TEXT))
    assert torch.equal(by_name.feed([TEXT]), given.feed([tokens_of(TEXT)]))


def test_a_tokenizer_of_transformers_names_what_ends_an_answer(speaker):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=open_tokenizer("bytes"), eos_token="e")
    assert Session(speaker, tokenizer=tokenizer).prompter.stop == (tokenizer.convert_tokens_to_ids("e"),)


def test_documents_are_read_side_by_side_as_each_alone(speaker):
    documents = [TEXT, "The mole is pink.", 3 * TEXT]
    alone, wanted = Session(speaker, 2, tokenizer="bytes"), []
    for document in documents:
        alone.reset()
        wanted.append((alone.read(document), alone.fast_weights, alone.ask("Which?", 9)))
    session, windows = Session(speaker, 2, tokenizer="bytes"), []
    lengths, memories, answers = zip(*wanted, strict=True)
    assert session.read(documents, on_window=lambda *at: windows.append(at)) == sum(lengths)
    L = speaker.window_size
    assert windows == [(i + 1, -(-lengths[2] // L)) for i in range(-(-lengths[2] // L))]
    torch.testing.assert_close(session.fast_weights[0], torch.cat([S[0] for S in memories]))
    assert session.ask(["Which?"] * 3, 9) == list(answers)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.feed("\ud800"), "text must have no half of a surrogate pair"),
        (lambda s: s.feed(["a", 3]), "tokens must be numbers"),
        (lambda s: s.ask(""), "prompt must have at least one token in every row"),
        (lambda s: s.ask("a", stop=""), "stop must be texts of a character or more, got ''"),
        (lambda s: s.ask("a", 0), "max_new_tokens must be 1 or more, got 0"),
        (lambda s: s.ask("a", top_k=0), "top_k must be 1 or more, got 0"),
        (lambda s: s.read(3), "document must be a text, a Path, or a list with one for each row, got 3"),
        (lambda s: s.read([]), "document must be a text, a Path, or a list with one for each row, got \\[\\]"),
        (lambda s: s.read(["a", 3]), "document must be a text, a Path, or a list with one for each row, got 3"),
        (lambda s: s.read(["a", " "]), "a document must have text in it, got ' '"),
        (lambda s: s.read(["a", "b"]), "document must be one for each of 1 row, got 2"),
    ],
)
def test_what_cannot_be_read_or_asked_leaves_the_memory_as_it_was(speaker, call, message):
    session = Session(speaker, tokenizer="bytes")
    session.feed("abc")
    S = session.fast_weights
    with pytest.raises(ValueError, match=message):
        call(session)
    assert torch.equal(session.fast_weights[0], S[0]) and session.groups[0].cache.fresh == 3


def test_text_needs_a_tokenizer_that_fits_the_model(build):
    with pytest.raises(ValueError, match="tokens must be integers where the session has no tokenizer, got text 'a'"):
        Session(build()).feed("a")
    with pytest.raises(
        ValueError, match="tokenizer must be given to a session that reads or is asked in text, got None"
    ):
        Session(build()).ask("a")
    with pytest.raises(ValueError, match="stop must be tokens where the session has no tokenizer, got 'a'"):
        Session(build()).generate([1], 3, stop="a")
    with pytest.raises(ValueError, match="tokenizer must have token ids below the model's vocab_size 7, got 256"):
        Session(build(), tokenizer="bytes")
    with pytest.raises(ValueError, match="tokenizer must be one of `tokenizers`, a folder or 'bytes', got 3"):
        Session(build(), tokenizer=3)


def test_a_folder_says_how_it_is_read_and_asked(speaker, tmp_path):
    trained = {"n_passes": 3, "eviction": "sliding", "task": {"class_path": "lmsleep.tasks.TextQA", "init_args": {}}}
    trained["task"]["init_args"] = {"train": "gone.jsonl", "tokenizer": "gone", "question": "Q: {question} A:"}
    speaker.save_pretrained(tmp_path / "bare", trained=trained)
    assert Session.from_pretrained(tmp_path / "bare").prompter is None
    speaker.save_pretrained(tmp_path / "whole", trained=trained, files=tokenizer_files("bytes"))
    session = Session.from_pretrained(tmp_path / "whole")
    assert (session.n_passes, session.eviction) == (3, "sliding")
    assert session.prompter.stop == (EOS,) and session.prompter.format_question("Which?") == "Q: Which? A:"
    model = HybridLM.from_pretrained(tmp_path / "whole")
    plain = Session(model, 3, "sliding", tokenizer="bytes")
    for one in (session, plain):
        one.feed(TEXT)
    assert session.ask("Which?", 9) == plain.ask("Q: Which? A:", 9)
    trained["task"]["init_args"] |= {"context": "{question} {context}", "question": "A:"}
    speaker.save_pretrained(tmp_path / "other", trained=trained, files=tokenizer_files("bytes"))
    before = Session.from_pretrained(tmp_path / "other")
    before.feed(TEXT)
    with pytest.raises(ValueError, match=r"^question must be empty where it was read before .* got 'Why'$"):
        before.ask("Why")
    again = Session(model, 3, "sliding", tokenizer="bytes")
    again.feed(TEXT)
    assert before.ask("", 9) == again.ask("A:", 9)
    assert (
        Session.from_pretrained(tmp_path / "bare", tokenizer="bytes").prompter.format_question("Which?")
        == "Q: Which? A:"
    )
    assert Session.from_pretrained(tmp_path / "whole", tokenizer=Prompter(BYTES)).prompter == Prompter(BYTES)


def test_a_folder_that_states_no_N_is_awake_with_a_warning(speaker, tmp_path):
    speaker.save_pretrained(tmp_path)
    told = r"config\.json does not state n_passes: the model stays awake \(N = 1\); give n_passes, or save with "
    with pytest.warns(UserWarning, match=told):
        assert Session.from_pretrained(tmp_path).n_passes == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Session.from_pretrained(tmp_path, n_passes=2).n_passes == 2
        HybridLM.from_pretrained(tmp_path).save_pretrained(tmp_path / "mine", trained={"n_passes": 4})
        assert Session.from_pretrained(tmp_path / "mine").n_passes == 4


def test_a_question_that_does_not_fit_into_the_window_is_warned_of_once(build):
    speaker = build("AG", vocab_size=257, dtype=torch.float32, window_size=9)
    session = Session(speaker, tokenizer=Prompter(BYTES, TextQA("", question="Q: {question} A:")))
    session.feed(TEXT)
    room = speaker.window_size - len("Q:  A:")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.ask("x" * room, 2)
    with pytest.warns(UserWarning, match=f"^a question must fit into a window of {speaker.window_size} tokens") as said:
        for more in (1, 2):
            session.ask("x" * (room + more), 2)
    assert len({str(one.message) for one in said}) == 1 and said[0].filename == __file__


def test_an_empty_question_is_refused_where_a_template_has_a_place_for_it(speaker):
    session = Session(speaker, tokenizer=Prompter(BYTES, TextQA("", question="Q: {question} A:")))
    session.feed(TEXT)
    for empty in ("", " "):
        with pytest.raises(ValueError, match=f"^question must have text in it, got '{empty}'$"):
            session.ask(empty)
        with pytest.raises(ValueError, match=r"^question must have text in it"):
            session.ask(["Which?", empty])
    assert Session(speaker, tokenizer="bytes").ask(" ", 2) is not None  # there is no template


def test_a_saved_model_s_folder_as_tokenizer_brings_its_templates(speaker, tmp_path):
    task = {"class_path": "lmsleep.tasks.TextQA", "init_args": {"question": "Q: {question} A:"}}
    speaker.save_pretrained(tmp_path, trained={"task": task}, files=tokenizer_files("bytes"))
    own = Session.from_pretrained(tmp_path)
    for given in (tmp_path, str(tmp_path)):
        assert Session(own.model, tokenizer=given).prompter.prompts("Which?") == ["Q: Which? A:"]
    assert Session(own.model, tokenizer=tmp_path / "tokenizer.json").prompter.prompts("Which?") == ["Which?"]


def test_a_saved_memory_keeps_its_templates_for_any_tokenizer(speaker, tmp_path):
    """A tokenizer has none; another `Prompter` says how to ask, as `lmsleep chat --question` does."""
    task = {"class_path": "lmsleep.tasks.TextQA", "init_args": {"question": "Q: {question} A:"}}
    task |= {"role": "user", "ahead": [{"role": "system", "content": "Read."}], "behind": None}
    speaker.save_pretrained(tmp_path / "model", trained={"task": task}, files=tokenizer_files("bytes"))
    session = Session.from_pretrained(tmp_path / "model")
    session.feed(TEXT)
    session.save(tmp_path / "memory")
    for given in (tmp_path / "model", tmp_path / "model/tokenizer.json", BYTES, "bytes"):
        again = Session.load(tmp_path / "memory", session.model, tokenizer=given).prompter
        assert (again.role, again.around) == (session.prompter.role, session.prompter.around)
        assert again.stop == (EOS,) and again.texts(TEXT, "Which?") == session.prompter.texts(TEXT, "Which?")
    assert Session.load(tmp_path / "memory", session.model, tokenizer=Prompter(BYTES)).prompter == Prompter(BYTES)
    assert Session.load(tmp_path / "memory", session.model).prompter is None


def test_a_tokenizer_in_a_folder_names_what_ends_an_answer(speaker, tmp_path):
    Tokenizer(models.WordLevel({str(i): i for i in range(7)}, "0")).save(str(tmp_path / "tokenizer.json"))
    assert Prompter.of(tmp_path, 7).stop == ()
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "3"}}')
    assert Prompter.of(str(tmp_path), 7).stop == (3,)


def test_a_model_that_is_awake_for_several_passes_cannot_stream(speaker, tmp_path):
    speaker.save_pretrained(tmp_path, trained={"wake_passes": 2}, files=tokenizer_files("bytes"))
    with pytest.raises(ValueError, match=r"^wake_passes of a model that tokens stream into must be 1, got 2$"):
        Session.from_pretrained(tmp_path)


@pytest.mark.parametrize("question", [5, None, [], b"Which?", ["Which?", 5], {"Which?": 1}, "Which\ud800?"])
def test_a_question_that_is_no_text_is_refused_before_the_memory_moves(speaker, question):
    session = Session(speaker, 2, tokenizer="bytes")
    session.feed(TEXT)
    S = session.fast_weights
    for ask in (session.ask, session.stream):
        with pytest.raises(ValueError, match=r"^(question must be a text, or a list with|text must have no half of a)"):
            ask(question, 3)
    with pytest.raises(ValueError, match=r"^question must be a text"):
        session.stream(["Which?", "Where?"], 3)
    assert torch.equal(session.fast_weights[0], S[0])


@pytest.mark.parametrize("stop", [b"x", {"x": 1.5}])
def test_a_stop_that_is_neither_token_nor_text_is_refused(speaker, stop):
    with pytest.raises(ValueError, match=r"^stop must be an integer, got "):
        Session(speaker, tokenizer="bytes").generate("Which?", 3, stop=stop)


def test_a_saved_task_whose_arguments_are_no_object_is_one_sentence(speaker, tmp_path):
    speaker.save_pretrained(tmp_path, trained={"task": {"init_args": 3}}, files=tokenizer_files("bytes"))
    with pytest.raises(ValueError, match=r"^init_args of the task must be .*, got 3$"):
        Session.from_pretrained(tmp_path)
