"""Fine-tune a pretrained model on your own texts: train, test, and save a folder for `lmsleep chat`.

lmsleep finetune --model Qwen/Qwen3-0.6B --data train.jsonl --out tuned
lmsleep finetune --model Qwen/Qwen3-0.6B --data train.jsonl --out tuned --n_passes 2 --lora.rank 16 --epochs 3
lmsleep finetune --model Qwen/Qwen3-0.6B --data notes/ --out tuned                         every file is a document

DATA is text, of which every token is learned, or has a JSON object a line, with `context`, `question` and `answer`
(docs/guide.md). The command is `lmsleep fit` and `lmsleep test` with a preset: every option of `lmsleep fit --help` can
follow, and overrides the preset.
"""

import json
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from lmsleep.atomic import check_folder
from lmsleep.checks import require
from lmsleep.commands.fit import SleepCLI, run_errors, run_trainer
from lmsleep.errors import OneSentenceParser, one_sentence
from lmsleep.hub import TOKENIZER, checkpoint_folder
from lmsleep.model.lora import TARGETS
from lmsleep.pretrained.export import export
from lmsleep.pretrained.loading import FILES
from lmsleep.tasks import Documents, Task, TextQA
from lmsleep.tasks.line_index import holds_documents
from lmsleep.tasks.template import ASKABLE, CONTEXT, QUESTION, is_askable, rename_fields, unescape
from lmsleep.training.checkpoint import ONE_FILE

TASK = "data.task.init_args."
# Option -> option of `lmsleep fit`, default (None: that of `lmsleep fit`), help.
OPTIONS: dict[str, tuple[str, Any, str]] = {
    "val": (f"{TASK}val", None, "what to validate on; without it, a tenth of DATA, which is then not trained on"),
    "test": (f"{TASK}test", None, "what to test on; without it, another tenth"),
    "context": (
        f"{TASK}context",
        TextQA.context,
        "of a line, what is read: a template over its fields, \\n for a line end",
    ),
    "question": (f"{TASK}question", TextQA.question, "what is asked, another"),
    "answer": (f"{TASK}answer", TextQA.answer, "what is said, another"),
    "message": (f"{TASK}message", None, "how one of a line's messages is written, by {role} and {content}, another"),
    "text": (f"{TASK}text", None, "of a line without a question, the document: another, such as {text}"),
    "n_windows": (f"{TASK}n_windows", Documents.n_windows, "windows of a row at most: a longer document has several"),
    "tokenizer": (f"{TASK}tokenizer", None, "tokenizer.json, a folder with one, or bytes; without it, that of MODEL"),
    "window": (f"{TASK}window_size", 512, "L, tokens of a window"),
    "n_passes": ("sleep.n_passes", 4, "N, passes over a window in all, the wake pass among them"),
    "steps": ("trainer.max_steps", 500, "of the optimizer, as many at most where --epochs is given too"),
    "epochs": ("trainer.max_epochs", None, "rounds over the rows"),
    "batch_size": ("data.batch_size", 8, "rows of a step, over all devices"),
    "ckpt_path": ("ckpt_path", None, "last.ckpt of a run that this one goes on from, with the same settings"),
    "muon_lr": ("model.optimizer.muon_lr", 1e-3, "learning rate of matrices"),
    "adamw_lr": ("model.optimizer.adamw_lr", 5e-5, "learning rate of all else"),
    "lora.rank": ("model.lora.rank", None, "rank of adapters, which then train in place of the weights (needs peft)"),
    "lora.alpha": ("model.lora.alpha", None, "of their scale alpha / rank; without it, twice the rank"),
    "lora.targets": ("model.lora.targets", None, f"layers with adapters; without it, [{','.join(TARGETS)}]"),
}
COUNTS = ("window", "n_windows", "n_passes", "steps", "epochs", "batch_size", "lora.rank")  # positive integers
TEMPLATES = ("context", "question", "answer", "message", "text")
PRESET = {
    "model.optimizer.warmup_steps": 10,
    "model.checkpointing": "true",
    "trainer.check_val_every_n_epoch": "null",
    "trainer.enable_model_summary": "false",
    "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
    "trainer.logger.init_args.name": "",
}
DOCUMENTS = {"sleep.after_loss": "true"}  # added where every window carries loss
GOES_ON = """

To go on from a text, as in training:

```python
from lmsleep import Session

session = Session.from_pretrained({})
session.feed("A text of any length: a window that is full is slept on, and forgotten.")
tokens = session.generate(" And then", 64, temperature=0)
print(session.prompter.decode(tokens[0].tolist()))
```"""
# Options of `lmsleep fit` without a dot, beside those of the Trainer and its parts.
OTHERS = ("config", "seed_everything", "weights_only", "print_config", "data", "model", "trainer")


class FinetuneCLI(SleepCLI):
    """Its `fit`, which is scored and exported at once."""

    def after_fit(self) -> None:
        pass


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    parser = make_parser()
    options, rest = parser.parse_known_args(args)
    for name in (word[2:].split("=")[0] for word in rest if word.startswith("-")):
        if "." not in name.removeprefix("lora.") and name not in OTHERS:
            parser.error(f"unrecognized arguments: --{name}")
    if missing := [f"--{name}" for name in ("model", "data") if getattr(options, name) is None]:
        parser.error(f"the following arguments are required: {' and '.join(missing)}")
    out = options.out
    with one_sentence():
        check_folder(out)
        context, question = options.context or TextQA.context, options.question or TextQA.question
        require(is_askable(context, question), ASKABLE, context)
        folder = checkpoint_folder(options.model, (*FILES, *TOKENIZER), "model")
        require(out.resolve() != folder.resolve(), "out must be another folder than that of the model", str(out))
        settings = fit_options(vars(options), folder)
    if any("ModelParallelStrategy" in word for word in rest):  # export reads one file
        rest.append(f"--{ONE_FILE}")
    cli = run_trainer(["fit", *settings, *rest], FinetuneCLI)
    with run_errors():
        scores = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]
        if not cli.trainer.is_global_zero:
            return
        table = scores_table(scores, cli.datamodule.task)
        card = card_text(out, cli, table)
        export(out / "last.ckpt", out, card=card)
    print(f"Scores on test rows:\n\n{table}\n")
    how = "go on from a text" if isinstance(cli.datamodule.task, Documents) else "ask"
    print(f"{out}: model, tokenizer, last.ckpt" + f"; its README.md shows how to {how}" * ("```" in card))


def make_parser() -> OneSentenceParser:
    """The parser of this command's own options."""
    usage = "%(prog)s --model MODEL --data DATA [options]"
    parser = OneSentenceParser(
        "lmsleep finetune", usage, __doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", help="folder, or name on the Hugging Face hub, of weights and tokenizer")
    parser.add_argument(
        "--data",
        help="text: a file, a folder or a pattern such as 'docs/**/*.md'; or lines: a JSONL, .parquet or .arrow file, "
        "a folder or name of a dataset",
    )
    parser.add_argument("--out", type=Path, default=Path("tuned"), help="folder for all that is made (default: tuned)")
    for name, (target, default, text) in OPTIONS.items():
        flags = dict.fromkeys((f"--{name}", f"--{target}"))
        kind = positive_integer if name in COUNTS else str if default is None else type(default)
        kind = unescape if name in TEMPLATES else kind
        text += "" if default is None else f" (default: {default!r})"
        parser.add_argument(*flags, dest=name, type=kind, metavar=name.rpartition(".")[2].upper(), help=text)
    return parser


def positive_integer(text: str) -> int:
    """A positive integer. Raises ArgumentTypeError if the text is none."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be an integer of 1 or more, got {text}")
    return int(text)


def fit_options(options: Mapping[str, Any], folder: Path) -> list[str]:
    """The preset and the options given, as options of `lmsleep fit`. Raises ValueError if one does not fit the data."""
    text, documents = options["text"], holds_documents(options["data"])
    require(text is None or not documents, "text must be left out with files that are documents themselves", text)
    documents |= text is not None
    kind, what = (Documents, "without questions") if documents else (TextQA, "with questions")
    known = {TASK + field.name for field in fields(kind)}
    for name, (target, _, _) in OPTIONS.items():
        fits = options[name] is None or not target.startswith(TASK) or target in known
        require(fits, f"{name} must be left out with data {what}", options[name])
    settings = PRESET | DOCUMENTS if documents else dict(PRESET)
    for name, (target, default, _) in OPTIONS.items():
        settings[target] = default if options[name] is None else options[name]
    for name, most in (("val_check_interval", 100), ("log_every_n_steps", 10)):
        settings[f"trainer.{name}"] = min(most, settings["trainer.max_steps"])
    if options["epochs"] and not options["steps"]:
        settings["trainer.max_steps"] = -1
    settings["model.init_from"] = str(folder)
    settings[f"{TASK}tokenizer"] = options["tokenizer"] or str(folder)
    places = ("checkpoint.dirpath", "trainer.default_root_dir", "trainer.logger.init_args.save_dir")
    settings |= dict.fromkeys(places, options["out"]) | {f"{TASK}train": options["data"]}
    if torch.cuda.is_available():
        settings["trainer.precision"] = "bf16-mixed"
    settings = {name: value for name, value in settings.items() if value is not None}
    # In JSON, since templates with a colon or braces would be read as YAML.
    arguments = {name.removeprefix(TASK): value for name, value in settings.items() if name in known}
    task = json.dumps({"class_path": f"lmsleep.tasks.{kind.__name__}", "init_args": arguments})
    return [f"--data.task={task}", *(f"--{k}={value}" for k, value in settings.items() if not k.startswith(TASK))]


def scores_table(scores: Mapping[str, float], task: Task) -> str:
    """A Markdown table by windows of context: exact answers, the share of the commonest answer, and loss; or of free
    text the share of next tokens that are right, loss and perplexity."""
    windows = sorted(int(name.rpartition("-")[2]) for name in scores if name.startswith("test/rows-"))
    commonest = task.baselines().get("commonest", {})
    heads, names = ["exact", "commonest answer", "loss"], ["exact", "loss"]
    if not task.has_answers:
        heads, names = ["next token", "loss", "perplexity"], ["token", "loss", "perplexity"]
    lines = [["windows", "rows", *heads], ["---"] * (2 + len(heads))]
    for title, end in [*((str(n), f"-{n}") for n in windows), ("all", "")]:
        values = [f"{scores[f'test/{name}{end}']:.3f}" for name in names]
        if task.has_answers:
            values.insert(1, f"{commonest[title]:.3f}" if title in commonest else "–")
        lines.append([title, f"{scores[f'test/rows{end}']:.0f}", *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def card_text(out: Path, cli: SleepCLI, scores: str) -> str:
    """The start of the model card: base model, scores, and how to ask."""
    task = cli.datamodule.task
    text = f"Fine-tuned from `{cli.model.init_from}` by `lmsleep finetune`. {task}.\n\n{scores}"
    if isinstance(task, Documents):
        return text + GOES_ON.format(repr(str(out)))
    if not isinstance(task, TextQA) or not is_askable(task.context, task.question):
        return text
    document, question, _ = task.example
    before, _, after = task.question_template.partition(QUESTION)
    text += f"""

To ask a question of a text, as in training:

```bash
lmsleep chat --model {out} --read notes.txt --ask "Which colour is the wren?"
```"""
    front, placeholder, back = rename_fields(task.context, task.question_template)[0].partition(CONTEXT)
    plain = placeholder and QUESTION not in front + back and not task.around
    if plain:
        document = document[len(front) : len(document) - len(back)]
    document = document if len(document) < 500 else document[:500] + " ..."
    return f"""{text}

In Python, here that of a held-out row:

```python
from lmsleep import Session

session = Session.from_pretrained({str(out)!r})
session.{"read" if plain else "feed"}({document!r})
print(session.ask({question[len(before) : len(question) - len(after)]!r}))
```"""
