"""BPE tokenizers in the manner of Qwen2.5 (bytes, each digit apart), of GPT-2 and of Llama 2, trained in a second."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from lmsleep.tasks.gsm.world import WORLDS

EOS = "<|endoftext|>"
QWEN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_bpe(folder: Path, vocab_size: int = 900, split: str = QWEN) -> str:
    """Path of a tokenizer.json in `folder` whose vocabulary is too small to hold every word as one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(10), trainer)
    path = folder / f"bpe{vocab_size}.json"
    tokenizer.save(str(path))
    return str(path)


def train_llama(folder: Path, digits: bool, normalizer: bool) -> str:
    """Path of a tokenizer.json whose words carry the space before them as `▁`, with bytes for what it does not know.

    `digits` keeps digits apart, so that a space before a number is a token of its own. The `▁` comes from a
    pre-tokenizer, or from a `normalizer` that puts one before the text too, as in the file of Llama 2.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    split = [pre_tokenizers.Metaspace(), *([pre_tokenizers.Digits(individual_digits=True)] if digits else [])]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    special = ["<unk>", EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_texts(100), trainer)
    if normalizer:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True) if digits else None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    path = folder / f"llama{digits}{normalizer}.json"
    tokenizer.save(str(path))
    return str(path)


def _texts(n_answers: int) -> list[str]:
    texts = [f" {text}." for name in ("zoo", "school", "film") for text in WORLDS[name].texts()]
    return texts + [f"Answer: {n}" for n in range(n_answers)] * 20
