"""The options of `lmsleep finetune`, and errors of `lmsleep fit` in their words."""

import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from lmsleep.commands.parser import RunParser
from lmsleep.errors import OneSentenceParser
from lmsleep.model.lora import TARGETS
from lmsleep.tasks import Documents, TextQA
from lmsleep.tasks.template import unescape

TASK = "data.task.init_args."
# Option -> option of `lmsleep fit`, default (None: that of `lmsleep fit`), help.
OPTIONS: dict[str, tuple[str, Any, str]] = {
    "val": (f"{TASK}val", None, "what to validate on; without it, a tenth of DATA, which is then not trained on"),
    "test": (f"{TASK}test", None, "what to test on; without it, another tenth"),
    "context": (
        f"{TASK}context",
        TextQA.context,
        "what is read of a line: a template over its fields, \\n for a line end",
    ),
    "question": (f"{TASK}question", TextQA.question, "what is asked: another such template"),
    "answer": (f"{TASK}answer", TextQA.answer, "what is said: another"),
    "message": (f"{TASK}message", None, "how a message of a line is written: a template over {role} and {content}"),
    "text": (f"{TASK}text", None, "the document in a line without a question: a template such as {text}"),
    "n_windows": (f"{TASK}n_windows", Documents.n_windows, "windows of a row at most: a longer document has several"),
    "tokenizer": (f"{TASK}tokenizer", None, "tokenizer.json, a folder with one, or bytes; without it, that of MODEL"),
    "window": (f"{TASK}window_size", 512, "L, tokens of a window"),
    "n_passes": ("sleep.n_passes", 4, "N, passes over a window in all, the wake pass among them"),
    "steps": ("trainer.max_steps", 500, "steps of the optimizer; where --epochs is given too, at most so many"),
    "epochs": ("trainer.max_epochs", None, "rounds over the rows"),
    "batch_size": ("data.batch_size", 8, "rows of a step, over all devices"),
    "ckpt_path": ("ckpt_path", None, "last.ckpt of a run that this one goes on from, with the same settings"),
    "muon_lr": ("model.optimizer.muon_lr", 1e-3, "learning rate of matrices"),
    "adamw_lr": ("model.optimizer.adamw_lr", 5e-5, "learning rate of all else"),
    "lora.rank": ("model.lora.rank", None, "rank of adapters, which then train in place of the weights (needs peft)"),
    "lora.alpha": ("model.lora.alpha", None, "adapters are scaled by alpha / rank; without it, by 2"),
    "lora.targets": ("model.lora.targets", None, f"layers with adapters; without it, [{','.join(TARGETS)}]"),
}
COUNTS = ("window", "n_windows", "n_passes", "steps", "epochs", "batch_size", "lora.rank")  # positive integers
TEMPLATES = ("context", "question", "answer", "message", "text")
PLACES = ("checkpoint.dirpath", "trainer.default_root_dir", "trainer.logger.init_args.save_dir")  # all are --out
# Option of `lmsleep fit`, as errors name it, without .init_args -> the one of this command that sets it.
FLAGS = {target.replace(".init_args", ""): name for name, (target, _, _) in OPTIONS.items()}
FLAGS |= {"model.init_from": "model", "data.task.train": "data", "data.task": "data"} | dict.fromkeys(PLACES, "out")


class FlagParser(RunParser):
    """Names the command's own options in its errors."""

    def exit(self, status: int = 0, message: str | None = None) -> Any:
        super().exit(status, message and f"error: {in_flags(message.removeprefix('error: '))}")


@contextmanager
def own_flags() -> Iterator[None]:
    """Within the block a ValueError names the command's own options."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ValueError(in_flags(str(error))) from error


def in_flags(sentence: str) -> str:
    """An error of `lmsleep fit`, with the options of this command in place of those that they set."""
    return re.sub(
        r"--([\w.]+\w)", lambda found: f"--{FLAGS.get(found[1].replace('.init_args', ''), found[1])}", sentence
    )


def make_parser(description: str | None) -> OneSentenceParser:
    """The parser of the command's own options."""
    usage = "%(prog)s --model MODEL --data DATA [options]"
    parser = OneSentenceParser(
        "lmsleep finetune", usage, description, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", help="folder, or name on the Hugging Face hub, of weights and tokenizer")
    parser.add_argument(
        "--data",
        help="text: a file, a folder or a pattern such as 'docs/**/*.md'; or lines: a .jsonl, .csv, .parquet or .arrow "
        "file, a folder or name of a dataset",
    )
    parser.add_argument("--out", type=Path, default=Path("tuned"), help="folder for all that is made (default: tuned)")
    for name, (target, default, text) in OPTIONS.items():
        flags = dict.fromkeys((f"--{name}", f"--{target}"))
        kind: Any = PositiveInt if name in COUNTS else str if default is None else type(default)
        kind = unescape if name in TEMPLATES else kind
        text += "" if default is None else f" (default: {default!r})"
        parser.add_argument(*flags, dest=name, type=kind, metavar=name.rpartition(".")[2].upper(), help=text)
    return parser
