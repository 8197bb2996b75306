"""Fine-tune a pretrained model on your own texts: train, test, and save a folder for `lmsleep chat`.

lmsleep finetune --model Qwen/Qwen3-0.6B --data train.jsonl --out tuned
lmsleep finetune --model Qwen/Qwen3-0.6B --data train.jsonl --out tuned --n_passes 2 --lora.rank 16 --epochs 3
lmsleep finetune --model Qwen/Qwen3-0.6B --data notes/ --out tuned                         every file is a document

DATA is text, of which every token is learned, or has a JSON object a line, with `context`, `question` and `answer`
(docs/guide.md). The command is `lmsleep fit` and `lmsleep test` with a preset: every option of `lmsleep fit --help` can
follow, and overrides the preset.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from scipy import stats

from lmsleep.atomic import check_folder
from lmsleep.checks import LAST, require
from lmsleep.commands.fit import SleepCLI, run_trainer
from lmsleep.commands.flags import OPTIONS, PLACES, TASK, FlagParser, make_parser, own_flags
from lmsleep.commands.run_errors import run_errors
from lmsleep.commands.scores import by_slice
from lmsleep.errors import one_sentence
from lmsleep.hub import TOKENIZER, checkpoint_folder
from lmsleep.model.folder import check_no_model
from lmsleep.pretrained.export import export
from lmsleep.pretrained.loading import FILES
from lmsleep.tasks import Documents, TextQA
from lmsleep.tasks.line_index import holds_documents
from lmsleep.tasks.template import ASKABLE, CONTEXT, QUESTION, is_askable, rename_fields
from lmsleep.training import LastCheckpoint
from lmsleep.training.callbacks import find_callback
from lmsleep.training.checkpoint import ONE_FILE

PRESET = {
    "model.optimizer.warmup_steps": 10,
    "model.checkpointing": "true",
    "trainer.check_val_every_n_epoch": "null",
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
    """The `fit` of this command, which is scored and exported at once."""

    def __init__(self, *classes: Any, args: list[str] | None = None, **options: Any) -> None:
        with own_flags():
            super().__init__(*classes, args=args, **options | {"parser_class": FlagParser})

    def before_fit(self) -> None:
        """Checks what the test and the export need, which are after the training."""
        super().before_fit()
        trainer, keeper = self.trainer, find_callback(self.trainer, LastCheckpoint)
        if keeper is None:
            raise ValueError("enable_checkpointing of the trainer must be true: the checkpoint is exported, got False")
        fast, limit = bool(trainer.fast_dev_run), trainer.limit_test_batches  # pyright: ignore
        require(not fast, "fast_dev_run of the trainer must be false: it leaves no checkpoint to export", fast)
        require(limit, "limit_test_batches of the trainer must be more than 0: README.md has the scores", limit)
        out = Path(keeper.dirpath or "")
        if not keeper.overwrite and not (out / LAST).exists():  # what a run may do with one, that checks
            check_no_model(out, "dirpath", "; --checkpoint.overwrite=true replaces the model in it")
        self.datamodule.trainer = trainer
        for split in ("val", "test"):
            self.datamodule.check_held_out(split)

    def after_fit(self) -> None:
        pass


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    parser = make_parser(__doc__)
    options, rest = parser.parse_known_args(args)
    for option in (word.split("=")[0] for word in rest if re.match(r"-[^\d.]", word)):  # -1 is a value
        name = option.removeprefix("--")
        if "." not in name.removeprefix("lora.") and name not in OTHERS:
            parser.error(f"unrecognized arguments: {option}")
        if name == PLACES[0]:
            parser.error(f"--{name} must be left out: --out is the folder for all that is made")
    if missing := [name for name in ("model", "data") if getattr(options, name) is None]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    out = options.out
    with one_sentence():
        check_folder(out, "--out")
        context, question = options.context or TextQA.context, options.question or TextQA.question
        require(is_askable(context, question), f"--{ASKABLE}", context)
        folder = checkpoint_folder(options.model, (*FILES, *TOKENIZER), "--model")
        require(out.resolve() != folder.resolve(), "--out must be another folder than that of the model", str(out))
        settings = fit_options(vars(options), folder)
    if any("ModelParallelStrategy" in word for word in rest):  # export reads one file
        rest.append(f"--{ONE_FILE}")
    cli = run_trainer(["fit", *settings, *rest], FinetuneCLI)
    with run_errors():
        scores = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]
        if not cli.trainer.is_global_zero:
            return
        commonest = cli.datamodule.task.baselines().get("commonest", {})
        text = scores_table(scores, commonest, cli.datamodule.task.has_answers) + unread(scores, commonest)
        card = card_text(out, cli, text)
        export(out / LAST, out, card=card)
    print(f"Scores on test rows:\n\n{text}\n")
    how = "go on from a text" if isinstance(cli.datamodule.task, Documents) else "ask"
    shown = f"; its README.md shows how to {how}" if "```" in card else ""
    print(f"{out}: model, tokenizer, {LAST}{shown}")


def fit_options(options: Mapping[str, Any], folder: Path) -> list[str]:
    """The preset and the options given, as options of `lmsleep fit`. Raises ValueError if one does not fit the data."""
    text, documents = options["text"], holds_documents(options["data"])
    require(text is None or not documents, "--text must be left out with files that are documents themselves", text)
    documents |= text is not None
    kind, what = (Documents, "without questions") if documents else (TextQA, "with questions")
    known = {TASK + field.name for field in fields(kind)}
    for name, (target, _, _) in OPTIONS.items():
        fits = options[name] is None or not target.startswith(TASK) or target in known
        require(fits, f"--{name} must be left out with data {what}", options[name])
    settings = PRESET | DOCUMENTS if documents else dict(PRESET)
    for name, (target, default, _) in OPTIONS.items():
        settings[target] = default if options[name] is None else options[name]
    for name, most in (("val_check_interval", 100), ("log_every_n_steps", 10)):
        settings[f"trainer.{name}"] = min(most, settings["trainer.max_steps"])
    if options["epochs"] and not options["steps"]:
        settings["trainer.max_steps"] = -1
    settings["model.init_from"] = str(folder)
    settings[f"{TASK}tokenizer"] = options["tokenizer"] or str(folder)
    settings |= dict.fromkeys(PLACES, options["out"]) | {f"{TASK}train": options["data"]}
    if torch.cuda.is_available():
        settings["trainer.precision"] = "bf16-mixed"
    settings = {name: value for name, value in settings.items() if value is not None}
    # In JSON, since templates with a colon or braces would be read as YAML.
    arguments = {name.removeprefix(TASK): value for name, value in settings.items() if name in known}
    task = json.dumps({"class_path": f"lmsleep.tasks.{kind.__name__}", "init_args": arguments})
    return [f"--data.task={task}", *(f"--{k}={value}" for k, value in settings.items() if not k.startswith(TASK))]


def scores_table(scores: Mapping[str, float], commonest: Mapping[str, float], has_answers: bool) -> str:
    """A Markdown table by windows of context: exact answers, the share of the commonest answer, and loss; or of free
    text the share of tokens that are right, loss and perplexity."""
    names = ["exact", "loss"] if has_answers else ["token", "loss", "perplexity"]
    heads = ["exact", "commonest answer", "loss"] if has_answers else names
    lines = [["windows", "rows", *heads], ["---"] * (2 + len(heads))]
    for title, of_slice in by_slice("test", scores)[0].items():
        values = [f"{of_slice[name]:.3f}" for name in names]
        if has_answers:
            values.insert(1, f"{commonest[title]:.3f}" if title in commonest else "–")
        lines.append([title, f"{of_slice['rows']:.0f}", *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def unread(scores: Mapping[str, float], commonest: Mapping[str, float]) -> str:
    """Below the table: that no more answers are right than the commonest one would be, unless the 95 % interval of
    Wilson's over test rows lies above it, or its share is not known."""
    if "all" not in commonest:
        return ""
    right, rows = scores["test/exact"], round(scores["test/rows"])
    low, high = stats.binomtest(round(right * rows), rows).proportion_ci(method="wilson")
    if low > commonest["all"]:
        return ""
    return (
        f"\n\nThe test does not show that the model reads: {right:.1%} of {rows:,} answers are right (95 % interval "
        f"{low:.1%} to {high:.1%}), and always giving the commonest one is right in {commonest['all']:.1%}."
    )


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
    question = question[len(before) : len(question) - len(after)]
    template = rename_fields(task.context, task.question_template)[0]
    asked = question.strip() or ("A question?" if QUESTION in template else "")  # else it was always the same
    text += f"""

To ask a question of a text of yours, as in training:

```bash
lmsleep chat --model={quote(str(out))} --read TEXT.txt --ask {quote(asked)}
```"""
    front, placeholder, back = template.partition(CONTEXT)
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
print(session.ask({question!r}))
```"""
