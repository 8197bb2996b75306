r"""Stage `train` of an arm: one cell of the arms' grid, named after the arm and its seed.

python -m lmsleep.figures.train_arm runs/gpu/arms/deep8-s100 --config configs/experiment/gpu/rule110.yaml \
    --seed_everything=100 --data.seed=100

What follows the folder goes to `lmsleep fit`, and behind it what configs/arms.yaml says of the arm.
"""

import sys
from pathlib import Path

from lmsleep.errors import one_sentence
from lmsleep.figures.settings import TABLE, arm_of, arms
from lmsleep.figures.train import train


def main(argv: list[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("-"):
        sys.exit(__doc__)
    with one_sentence():
        out, known = Path(words[0]), arms()
        if arm_of(out) not in known:
            raise ValueError(f"the folder must be called <arm>-s<seed> with an arm of {TABLE}, got {str(out)!r}")
        train(out, [*words[1:], *known[arm_of(out)].arguments])


if __name__ == "__main__":
    main()
