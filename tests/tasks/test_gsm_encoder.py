from pathlib import Path

import pytest
from gsm_bpe import EOS, GPT2, train_bpe
from tokenizers import Tokenizer, models, pre_tokenizers

from lmsleep.tasks.gsm_infinite import TokenizerFile, WordVocabulary

PROMPT = "Question: How many adult blue jay does Pine Ridge have?\nProblem: The number of adult blue jay in Pine Ridge equals 4 plus the number of adult crow in Pine Ridge.\nAnswer: "  # noqa: E501


@pytest.fixture(scope="module")
def bpe(tmp_path_factory) -> str:
    return train_bpe(tmp_path_factory.mktemp("bpe"))


def test_word_vocabulary_gives_the_text_back():
    words = WordVocabulary(("zoo",))
    ids, start = words.encode(PROMPT, 417)
    assert words.decode(ids) == " ".join((PROMPT + "417").split())
    assert words.decode(ids[start:]) == "417"
    assert ids[start + 1 :] == [words.eos_id]
    assert words.length(PROMPT) == start


def test_word_ids_depend_on_the_set_of_templates_alone():
    one, other = WordVocabulary(("zoo", "terse")), WordVocabulary(("terse", "zoo", "zoo"))
    assert one.ids == other.ids and one.sha256 == other.sha256
    assert sorted(one.ids.values()) == list(range(one.vocab_size))
    assert one.sha256 != WordVocabulary(("zoo",)).sha256


def test_unknown_word_is_named():
    with pytest.raises(ValueError, match="no word 'zebra'"):
        WordVocabulary(("zoo",)).encode("Question: zebra", 1)


def test_tokenizer_file_cuts_off_the_answer(bpe: str):
    encoder = TokenizerFile(bpe)
    ids, start = encoder.encode(PROMPT, 417)
    library = Tokenizer.from_file(bpe)
    assert ids == [*library.encode(PROMPT + "417").ids, library.token_to_id(EOS)]
    assert library.decode(ids[:start]) == PROMPT
    assert [library.decode([i]) for i in ids[start:-1]] == ["4", "1", "7"]
    assert encoder.decode(ids) == PROMPT + "417"
    assert encoder.vocab_size == library.get_vocab_size()


def test_answer_with_its_space_in_one_token(tmp_path: Path):
    encoder = TokenizerFile(train_bpe(tmp_path, split=GPT2))
    ids, start = encoder.encode(PROMPT, 7)
    assert Tokenizer.from_file(encoder.path).decode(ids[start:-1]) == " 7"
    assert encoder.decode(ids) == PROMPT + "7"


def test_length_adds_up(bpe: str):
    encoder = TokenizerFile(bpe)
    start = encoder.encode(PROMPT, 4)[1]
    assert abs(encoder.length(PROMPT) - start) <= 3  # the two line breaks and the last space are not words


def test_bad_tokenizers_are_named(bpe: str, tmp_path: Path):
    with pytest.raises(ValueError, match="no file"):
        TokenizerFile(str(tmp_path / "absent.json"))
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        TokenizerFile(str(broken))
    with pytest.raises(ValueError, match="eos_token '</s>' is not in the vocabulary"):
        TokenizerFile(bpe, "</s>")
    lossy = Tokenizer(models.WordLevel({EOS: 0, "Question": 1}, unk_token=EOS))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()
    lossy.save(str(tmp_path / "lossy.json"))
    with pytest.raises(ValueError, match="does not keep the text"):
        TokenizerFile(str(tmp_path / "lossy.json"))
