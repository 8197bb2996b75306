"""Makes what trying `lmsleep finetune` and `lmsleep chat` on a CPU takes, a minute or two: train.jsonl with questions,
notes.txt to be read, and in tiny/ a Llama with random weights and a tokenizer.

python examples/birds.py
lmsleep finetune --model tiny --data train.jsonl --out tuned --window 24 --adamw_lr 3e-3
lmsleep chat --model tuned --read notes.txt --ask "Which colour is the wren?"
"""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from transformers.utils.logging import disable_progress_bar

BIRDS, COLOURS = ["wren", "robin", "heron"], ["red", "blue", "green"]


def line() -> dict[str, str]:
    """Three birds in any order, each with a colour, and a question about one."""
    seen = {bird: random.choice(COLOURS) for bird in random.sample(BIRDS, 3)}
    text = " ".join(f"The {bird} by the mill is {colour}." for bird, colour in seen.items())
    return {"context": text, "question": "Which colour is the wren?", "answer": seen["wren"]}


set_seed(0)
disable_progress_bar()
Path("train.jsonl").write_text("\n".join(json.dumps(line()) for _ in range(2000)), encoding="utf-8")
Path("notes.txt").write_text(line()["context"], encoding="utf-8")
print(f"notes.txt: {Path('notes.txt').read_text(encoding='utf-8')}")

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
letters = pre_tokenizers.ByteLevel.alphabet()  # all bytes: a question may have letters that no line has
trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=letters, show_progress=False)
tokenizer.train(["train.jsonl"], trainer)
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained("tiny")
sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
LlamaForCausalLM(LlamaConfig(vocab_size=400, num_key_value_heads=2, **sizes)).save_pretrained("tiny")
