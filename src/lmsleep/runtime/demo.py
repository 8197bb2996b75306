"""Watch a model read, fall asleep and answer.

lmsleep demo                       trains a small model on Rule 110 first, less than a minute on a CPU
lmsleep demo --task depo           the same on Depo, questions about a cycle
lmsleep demo --model FOLDER --task parity.Parity    a model of a task of your own, whose class is imported
lmsleep demo --model FOLDER        a model saved by `lmsleep export` or `save_pretrained`, or a name on the hub
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from scipy import stats

from lmsleep.checks import check_integer, counted, require
from lmsleep.hub import TOKENIZER, checkpoint_folder
from lmsleep.model import HybridLM
from lmsleep.model.folder import CARD, CONFIG, WEIGHTS, check_no_model, read_config
from lmsleep.model.trained import check_streamable
from lmsleep.runtime.answer import printable
from lmsleep.runtime.demo_models import DEMO_TASKS, train_demo
from lmsleep.runtime.events import SleepEvent
from lmsleep.runtime.session import Session
from lmsleep.settle import forget
from lmsleep.sleep import OnOverflow, read_windows, sleep
from lmsleep.tasks import IGNORE, Batch, Task
from lmsleep.tasks.base import MAX_BATCH, split_answers
from lmsleep.tasks.spec import build_task
from lmsleep.windows import Eviction, SleepSettings, policy_name

EXAMPLES = 6
MAX_PACE = 3600  # a larger value is a mistake


def show_reading(console: Console, session: Session, task: Task, batch: Batch, pace: float) -> None:
    """Reads the context of one row window by window; a progress bar for every sleep shows the change of S."""
    L, first_target = session.model.window_size, int((batch.targets != IGNORE).any(dim=0).nonzero()[0])
    mask = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
    windows, masks = (x[:1, : first_target // L * L].split(L, dim=1) for x in (batch.tokens, mask))
    for number, (window, real) in enumerate(zip(windows, masks, strict=True), 1):
        console.print(f"[bold]awake[/]  window {number}: {tokens_text(task, window[real].tolist())}")
        session.feed(window, mask=real)
        with Progress(TextColumn("  asleep"), BarColumn(24), TextColumn("{task.fields[note]}"), console=console) as bar:
            bar.add_task("", total=session.n_passes, note="")
            session.callbacks = (partial(_show_pass, bar, pace),)
            session.sleep()
    norms = ", ".join(f"{norm:.2f}" for norm in session.fast_weights.norms()[:, 0].tolist())
    console.print(f"The windows are gone. What is left: {session.nbytes:,} bytes, |S| = {norms}\n")


def _show_pass(bar: Progress, pace: float, event: SleepEvent) -> None:
    bar.update(TaskID(0), total=event.n_passes, completed=event.passes, note=str(event))
    time.sleep(pace)


def show_answers(
    console: Console, model: HybridLM, task: Task, readers: Mapping[str, OnOverflow], eviction: Eviction, rows: int
) -> None:
    """Compares `readers`, which differ in `on_overflow`: the answers for some rows, the accuracy for each slice with
    Wilson's 95 % interval over rows, and the difference between the first two."""
    examples = Table("answer", *readers, title="The same weights, three memories")
    scores = Table("slice", "rows", *readers, "commonest", title="Exact answers, with 95 % intervals over rows")
    gains = []
    for level, batches in sorted(rows_by_slice(task, rows).items()):
        results = [compare_answers(model, task, batches, on_overflow, eviction) for on_overflow in readers.values()]
        truth, _, owners = results[0]
        for row in range(min(len(truth), -(-EXAMPLES // len(task.slices)))):
            marks = (_mark(task, answers[row], truth[row]) for _, answers, _ in results)
            examples.add_row(tokens_text(task, truth[row]), *marks)
        right = [[*map(tuple.__eq__, answers, truth)] for _, answers, _ in results]
        commonest = Counter(truth).most_common(1)[0][1] / len(truth)
        n = sum(len(batch.tokens) for batch in batches)
        shares = [share_text(float(np.mean(exact)), n) for exact in right]
        scores.add_row(str(level), str(n), *shares, f"{commonest:.1%}")
        asleep, awake = (np.bincount(owners, exact) for exact in right[:2])
        gains.append((asleep - awake) / np.bincount(owners))
    console.print(examples, scores, gain_text(np.concatenate(gains)), sep="\n")


def rows_by_slice(task: Task, rows: int) -> dict[int, list[Batch]]:
    """About `rows` test rows of a task, as many of every slice where they are drawn, by slice. Stored rows come in
    batches of any slices, and once each, however few there are."""
    batch_size, found = -(-rows // len(task.slices)), defaultdict(list)
    for step in range(min(len(task.slices), task.held_out_steps("test", batch_size, rows))):
        batch = task.rows(split="test", seed=0, step=step, batch_size=batch_size)
        for level in batch.slice.unique().tolist():
            own = batch.slice == level
            found[level].append(Batch._make(None if field is None else field[own] for field in batch))
    return found


def share_text(value: float, rows: int) -> str:
    """A share with Wilson's 95 % interval over rows."""
    low, high = stats.binomtest(round(value * rows), rows).proportion_ci(method="wilson")
    return f"{value:.1%} ({low:.0%} to {high:.0%})"


def gain_text(gains: np.ndarray) -> str:
    """The gain of sleep, from the difference of right answers in each row (R,), with a 95 % t interval over rows."""
    mean = f"Asleep against awake, on the same {counted(len(gains), 'rows')}: {100 * gains.mean():+.1f} points"
    if len(gains) < 2 or not np.ptp(gains):
        return f"{mean}, the same in each."
    low, high = stats.ttest_1samp(gains, 0).confidence_interval()
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return f"{mean} (95 % interval over rows {100 * low:+.1f} to {100 * high:+.1f}): {verdict}."


def compare_answers(
    model: HybridLM, task: Task, batches: Iterable[Batch], on_overflow: OnOverflow, eviction: Eviction
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[int]]:
    """For every answer of the batches: the true tokens, the predicted ones, and its row, counted over all batches."""
    found, row = [], 0
    for batch in batches:
        options = {"eviction": eviction, "mask": batch.mask, "on_overflow": on_overflow}
        reading = read_windows(model, batch.tokens, batch.targets, **options)
        targets, logits = reading.scored_targets, reading.scored_logits
        assert targets is not None and logits is not None
        for of_row in zip(*(x.tolist() for x in (task.answers(targets), targets, logits.argmax(-1))), strict=True):
            found += [(*answer, row) for answer in split_answers(*of_row)]
            row += 1
    truth, answers, owners = map(list, zip(*found, strict=True))
    return truth, answers, owners


def tokens_text(task: Task, tokens: Sequence[int]) -> str:
    """Tokens as text, or as numbers if the task has no text."""
    decode = getattr(task, "decode", None)
    return escape(printable(decode(tokens))) if decode else " ".join(map(str, tokens))


def _mark(task: Task, answer: tuple[int, ...], truth: tuple[int, ...]) -> str:
    text = tokens_text(task, answer)
    return f"[green]{text} ✓[/]" if answer == truth else f"[red]{text} ✗[/]"


def _load(source: str, policy: str | None) -> HybridLM:
    """A saved model, whose task finds the tokenizer in its folder; `policy` as of `check_streamable`."""
    folder = checkpoint_folder(source, (WEIGHTS, CONFIG, CARD, *TOKENIZER), "model")
    _, trained = read_config(folder)
    if "task" not in trained:
        raise ValueError(f"model must have been saved with its task, but {CONFIG} in {folder} names none")
    check_streamable(trained, policy)
    model = HybridLM.from_pretrained(folder)
    if (folder / TOKENIZER[0]).is_file() and "tokenizer" in model.trained["task"].get("init_args", {}):
        model.trained["task"]["init_args"]["tokenizer"] = str(folder)
    return model


def main(
    model: str | None = None,
    task: str | None = None,
    n_passes: int | None = None,
    on_overflow: OnOverflow | None = None,
    rows: int = 400,
    seed: int | None = None,
    pace: float = 0.15,
    save: Path | None = None,
) -> None:
    """The command.

    Args:
        model: folder or name on the Hugging Face hub; without it, a small model is trained.
        task: what to train on, rule110 (the default) or depo; with a model, the class of its task where that is of
            another package, which is then imported.
        n_passes: N; by default that of the training, 3 for the small model.
        on_overflow: with a model, sleeps in place of passes 2..N, as in `lmsleep chat`.
        rows: test rows behind the accuracies.
        seed: of the training; by default 0.
        pace: seconds for which each pass is shown.
        save: folder to keep the trained model in.

    Raises:
        ValueError: if an argument is out of range, or concerns the training when there is a model.
    """
    check_integer("rows", rows, 1, MAX_BATCH)
    check_integer("seed", seed or 0, 0, 2**32 - 1)
    require(0 <= pace <= MAX_PACE, f"pace must be between 0 and {MAX_PACE} seconds", pace)
    policy = SleepSettings(1 if n_passes is None else n_passes, on_overflow=policy_name(on_overflow)).on_overflow
    if not model:
        require(
            policy is None, "on_overflow must be left out without a model, which is trained with passes 2..N", policy
        )
        require(task in (None, *DEMO_TASKS), f"task must be {' or '.join(DEMO_TASKS)} without a model", task)
    for name, value in (("task", task if task in DEMO_TASKS else None), ("seed", seed), ("save", save)):
        if model and value is not None:
            raise ValueError(f"{name} must be left out with a model, which is not trained here, got {str(value)!r}")
    if save:
        check_no_model(save, "save")
    reader = _load(model, policy) if model else train_demo(task or "rule110", n_passes or 3, seed or 0)
    if save:
        reader.save_pretrained(save, "The small model of `lmsleep demo`.")
    if model and task:
        require(task == reader.trained["task"]["class_path"], "task must be that of the model, or left out", task)
    shown = build_task(reader.trained["task"], from_anywhere=bool(model and task))
    if not shown.has_answers:
        name = type(shown).__name__
        raise ValueError(f"model must be of a task with answers, got {name}, free text; `lmsleep test` has its scores")
    passes = 1 if policy else n_passes or reader.trained.get("n_passes", 1)
    session = Session(reader, passes, reader.trained.get("eviction", "hard"), on_overflow=on_overflow)
    show(Console(highlight=False), session, shown, rows, pace)


def show(console: Console, session: Session, task: Task, rows: int, pace: float) -> None:
    """The demo of the model of a session, which sleeps as that does, from checked arguments."""
    model, policy = session.model, policy_name(session.on_overflow)
    sizes = f"{sum(w.numel() for w in model.parameters()):,} parameters, window of {model.window_size} tokens"
    trained = model.trained.get("on_overflow") or f"N = {model.trained.get('n_passes', '?')}"
    here = f"\nasleep: {policy}" if policy else ""
    console.print(f"\n{task}\n{model.config.pattern}, {sizes}, trained with {trained}{here}\n")
    show_reading(console, session, task, task.rows(split="test", seed=0, step=0, batch_size=1), pace)
    asleep, awake = session.on_overflow or partial(sleep, n_passes=session.n_passes), partial(sleep, n_passes=1)
    readers = {
        "asleep" if policy else f"asleep, N={session.n_passes}": asleep,
        "awake, N=1": awake,
        "S to zero": forget,
    }
    with torch.no_grad():
        show_answers(console, model, task, readers, session.eviction, rows)
    console.print("[dim]All columns have the same weights; results/gpu/README.md has models trained awake.[/]")
