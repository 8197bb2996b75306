"""Byte-level BPE tokenizers in the manner of Qwen2.5 (each digit apart) and of GPT-2, trained in a second."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lmsleep.tasks.gsm_infinite.worlds import WORLDS

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
    texts = [f" {text}." for name in ("zoo", "school", "film") for text in WORLDS[name].texts()]
    texts += [f"Answer: {n}" for n in range(10)] * 20
    tokenizer.train_from_iterator(texts, trainer)
    path = folder / f"bpe{vocab_size}.json"
    tokenizer.save(str(path))
    return str(path)
