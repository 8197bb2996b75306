"""Makes what trying `lmsleep finetune` and `lmsleep chat` on a CPU takes, in the folder that you are in: train.jsonl,
with questions; notes.txt, to be read; tiny/, a Llama with random weights and a tokenizer. It replaces nothing.

python examples/birds.py
lmsleep finetune --model tiny --data train.jsonl --out tuned --window 24 --adamw_lr 3e-3
lmsleep chat --model tuned --read notes.txt --ask "Which colour is the wren?"
"""

import json
import random
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LINES, NOTES, MODEL = MADE = Path("train.jsonl"), Path("notes.txt"), Path("tiny")
OTHERS, COLOURS = ["robin", "heron"], ["red", "blue", "green"]
PLACES = ["mill", "lake", "barn", "pond", "wood", "road", "hill", "wall"]
SIZES = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}


def told(seen: dict[str, str], place: str) -> str:
    """The colours of birds in sentences."""
    return " ".join(f"The {bird} by the {place} is {colour}." for bird, colour in seen.items())


def line() -> dict[str, str]:
    """A wren and up to two other birds in any order, each with a colour, and a question about the wren."""
    others = random.sample(OTHERS, random.randint(0, 2))
    seen = {bird: random.choice(COLOURS) for bird in random.sample(["wren", *others], 1 + len(others))}
    return {
        "context": told(seen, random.choice(PLACES)),
        "question": "Which colour is the wren?",
        "answer": seen["wren"],
    }


def train_tokenizer() -> Tokenizer:
    """Words of the lines, and all bytes: a question may have letters that no line has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    options = {"special_tokens": ["<eos>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = trainers.BpeTrainer(vocab_size=SIZES["vocab_size"], show_progress=False, **options)
    tokenizer.train([str(LINES)], trainer)
    return tokenizer


def random_llama() -> dict[str, torch.Tensor]:
    """Weights by the names that transformers gives them: matrices normal with standard deviation 0.02, norms 1."""
    V, D, F, layers, heads, kv_heads = SIZES.values()
    shapes = {"model.embed_tokens": (V, D), "model.norm": (D,), "lm_head": (V, D)}
    for layer in range(layers):
        block = {f"self_attn.{name}_proj": (D, D) for name in "qo"}
        block |= {f"self_attn.{name}_proj": (D * kv_heads // heads, D) for name in "kv"}
        block |= {"mlp.gate_proj": (F, D), "mlp.up_proj": (F, D), "mlp.down_proj": (D, F)}
        block |= {"input_layernorm": (D,), "post_attention_layernorm": (D,)}
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return {f"{name}.weight": 0.02 * torch.randn(s) if len(s) == 2 else torch.ones(s) for name, s in shapes.items()}


def main() -> None:
    """Raises OSError if the folder cannot be written to."""
    random.seed(3)  # a start that has learned after 300 of 500 steps; some need them all, some more
    torch.manual_seed(3)
    MODEL.mkdir()
    lines: dict[str, None] = {}  # each once: copies would be held out together
    while len(lines) < 1000:
        lines[json.dumps(line())] = None
    LINES.write_text("\n".join(lines), encoding="utf-8")
    NOTES.write_text(told({"robin": "red", "wren": "blue", "heron": "green"}, "mill"), encoding="utf-8")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
    config |= {"rms_norm_eps": 1e-6, "rope_theta": 10000.0} | SIZES
    (MODEL / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(random_llama(), MODEL / "model.safetensors", metadata={"format": "pt"})
    train_tokenizer().save(str(MODEL / "tokenizer.json"))
    (MODEL / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}), encoding="utf-8")
    print(f"{NOTES}: {NOTES.read_text(encoding='utf-8')}")


if __name__ == "__main__":
    if there := [str(path) for path in MADE if path.exists()]:
        what = "it" if len(there) == 1 else "them"
        sys.exit(f"error: {', '.join(there)} would be replaced: move {what} away, or run this in another folder")
    try:
        main()
    except OSError as error:
        sys.exit(f"error: {error.filename} cannot be written: {error.strerror}")
