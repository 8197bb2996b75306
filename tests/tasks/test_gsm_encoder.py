from pathlib import Path

import pytest
from gsm_bpe import EOS, GPT2, train_bpe, train_llama
from tokenizers import Tokenizer, models, pre_tokenizers

from lmsleep.tasks.gsm import TokenizerFile, WordVocabulary

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


@pytest.mark.parametrize("normalizer", [False, True])
@pytest.mark.parametrize("digits", [False, True])
def test_answers_of_tokenizers_whose_words_carry_the_space(tmp_path: Path, digits: bool, normalizer: bool):
    encoder = TokenizerFile(train_llama(tmp_path, digits, normalizer))
    library = Tokenizer.from_file(encoder.path)
    for answer in (7, 12, 417):
        ids, start = encoder.encode(PROMPT, answer)
        pieces = [library.id_to_token(i) for i in ids[start:-1]]
        assert pieces == [*str(answer)] if digits else "".join(map(str, pieces)) == f"▁{answer}"
        assert digits == (library.id_to_token(ids[start - 1]) == "▁")
        assert library.decode(ids[start:-1]) == str(answer) and encoder.decode(ids) == PROMPT + str(answer)


@pytest.mark.parametrize("kind", ["qwen", "gpt2", "llama", "llama digits", "llama normalizer"])
def test_the_length_of_a_sentence_is_what_it_adds(tmp_path: Path, kind: str):
    if kind.startswith("llama"):
        encoder = TokenizerFile(train_llama(tmp_path, "digits" in kind, "normalizer" in kind))
    else:
        encoder = TokenizerFile(train_bpe(tmp_path, split=GPT2) if kind == "gpt2" else train_bpe(tmp_path))
    before = PROMPT.removesuffix("\nAnswer: ")
    for sentence in (
        "The number of adult blue jay in Pine Ridge equals 4 plus the number of adult crow in Pine Ridge.",
        "The average number of teachers per law school in Lake Marlow equals 12.",
    ):
        added = len(encoder.encode(f"{before} {sentence} ", 5)[0]) - len(encoder.encode(f"{before} ", 5)[0])
        assert encoder.length(sentence) == added


def test_bad_tokenizers_are_named(bpe: str, tmp_path: Path):
    with pytest.raises(ValueError, match="found none"):
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
