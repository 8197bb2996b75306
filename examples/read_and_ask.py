"""From a file of questions to a model that answers about a document, in one go and less than a minute on a CPU core.

python examples/read_and_ask.py FOLDER        with --trainer.max_steps=500 behind it, the answers come to be right
"""

import json
import random
import sys
from pathlib import Path

from lmsleep import Session
from lmsleep.cli import main

ROOT = Path(__file__).parents[1]
BIRDS, COLOURS = ["wren", "robin", "heron", "finch"], ["red", "blue", "grey", "gold"]


def facts(rng: random.Random) -> dict[str, str]:
    """A bird and its colour, three times."""
    return {bird: rng.choice(COLOURS) for bird in rng.sample(BIRDS, 3)}


def told(birds: dict[str, str]) -> str:
    return " ".join(f"The {bird} is {colour}." for bird, colour in birds.items())


def run(folder: Path, options: list[str]) -> str:
    """Trains, exports, reads a document, sleeps on it and asks. Returns the answer."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = random.Random(0), []
    for _ in range(300):
        birds = facts(rng)
        bird = rng.choice(list(birds))
        lines.append(json.dumps({"context": told(birds), "question": bird, "answer": birds[bird]}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    task = [f"--data.task.init_args.train={folder / 'train.jsonl'}", "--data.task.init_args.window_size=32"]
    where = ["--checkpoint.dirpath", str(folder / "run"), "--trainer.default_root_dir", str(folder), *options]
    main(["fit", f"--config={ROOT / 'configs/experiment/text_qa.yaml'}", "--sleep.n_passes=3", *task, *where])
    main(["export", "--ckpt", str(folder / "run/last.ckpt"), "--out", str(folder / "model")])
    birds = facts(rng)
    (folder / "notes.txt").write_text(told(birds))
    session = Session.from_pretrained(folder / "model")
    session.feed((folder / "notes.txt").read_text())
    answer = session.ask(next(iter(birds)), 12)
    print(f"{told(birds)}\n{next(iter(birds))}? {answer!r}, asleep with N = {session.n_passes}")
    return answer


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python examples/read_and_ask.py FOLDER [OPTIONS of lmsleep fit]")
    run(Path(sys.argv[1]), sys.argv[2:])
