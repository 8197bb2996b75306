"""An answer piece by piece; what ends one is tested with the sessions that ask, in test_prompter.py."""

from lmsleep.hub import open_tokenizer
from lmsleep.runtime.answer import Answer, StopCriteria, printable, stream_text
from lmsleep.runtime.prompter import Prompter

BYTES = open_tokenizer("bytes")
EOS = BYTES.token_to_id("<eos>")


def test_pieces_hold_back_half_a_character_and_what_may_become_a_stop():
    answer = Answer(StopCriteria(frozenset({EOS}), ("END",)), Prompter(BYTES))
    tokens = BYTES.encode("aü EN, ENEND more").ids

    def steps():
        for token in tokens:
            answer.add(token)
            yield token

    assert list(stream_text(answer, steps())) == ["a", "ü", " ", "EN,", " ", "EN"]
    assert answer.ended


def test_half_a_character_at_the_end_is_said_as_one_that_is_not_known():
    answer = Answer(StopCriteria(), Prompter(BYTES))
    tokens = BYTES.encode("aü").ids[:-1]
    said = list(stream_text(answer, (answer.add(token) for token in tokens)))
    assert said == ["a", "\N{REPLACEMENT CHARACTER}"]


def test_a_terminal_gets_nothing_to_obey():
    assert printable("a\x1b[2Jb\r\tc\nü") == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}\tc\nü"


def test_an_answer_begins_with_its_first_word():
    """Rows of a training have a space before it; a stop text may begin with that, too."""
    for text, stop, said in ((" blue, red", ", ", ["b", "l", "u", "e"]), (" \n aü ", "x", ["a", "ü", " "])):
        answer = Answer(StopCriteria(texts=(stop,)), Prompter(BYTES))
        assert list(stream_text(answer, (answer.add(token) for token in BYTES.encode(text).ids))) == said
        assert answer.text == "".join(said)
    answer = Answer(StopCriteria(texts=(" END",)), Prompter(BYTES))
    assert list(stream_text(answer, (answer.add(token) for token in BYTES.encode(" END").ids))) == []
