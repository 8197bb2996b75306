"""Read documents longer than the window, sleep on them, and answer questions.

lmsleep chat --model FOLDER --read book.txt                          then type questions; /help lists what else
lmsleep chat --model FOLDER --read book.txt --memory book.memory --ask "Who did it?"
lmsleep chat --model FOLDER --memory book.memory --ask "And where?"  goes on from what was read
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from lmsleep.errors import sentence
from lmsleep.hub import QUESTION, check_integer
from lmsleep.memory import Eviction
from lmsleep.runtime.events import SleepEvent
from lmsleep.runtime.sampling import Drawing, sampler
from lmsleep.runtime.session import Session
from lmsleep.runtime.speech import printable

HELP = """/read FILE   read another document
/fork        what follows leaves no trace after /back
/forget      S to zero: what is then known is in the window, or in the weights
/sleep       sleep on the window now
/save FILE   keep the memory, for --memory FILE
/stats       what was read and what is held
/quit        or Ctrl-D; Ctrl-C ends an answer"""


@dataclass
class Counts:
    """What a chat has read and slept, told by the events of its session."""

    tokens: int = 0
    sleeps: int = 0
    passes: int = 0
    seconds: float = 0.0
    last: SleepEvent | None = None
    show: Callable[[SleepEvent], None] = field(default=lambda event: None)

    def __call__(self, event: SleepEvent) -> None:
        if event.done:
            self.sleeps, self.passes = self.sleeps + 1, self.passes + event.n_passes
            self.seconds, self.last = self.seconds + event.seconds, event
        self.show(event)


def told(event: SleepEvent) -> str:
    """A pass of a sleep in words."""
    changes = " → ".join(f"{sum(layers) / len(layers):.0%}" for layers in event.change if layers)
    return f"pass {event.passes}/{event.n_passes}" + (f", S changed by {changes}" if changes else "")


class Chat:
    """A conversation: the session, or the forks of it that are open, and where it is printed.

    Args:
        how: tokens are drawn.
        out: for answers. log: for all else.
    """

    def __init__(self, session: Session, max_new_tokens: int, how: Drawing, out: Console, log: Console) -> None:
        self.sessions, self.max_new_tokens, self.how, self.out, self.log = [session], max_new_tokens, how, out, log
        self.forks: list[ExitStack] = []
        self.counts = Counts()
        session.callbacks = (*session.callbacks, self.counts)

    @property
    def session(self) -> Session:
        return self.sessions[-1]

    def read(self, file: Path) -> None:
        """Reads a document by windows and sleeps on the rest; a bar shows windows, sleeps and passes."""
        session, L = self.session, self.session.model.window_size
        assert session.speech is not None
        tokens = session.speech.encode(file.read_text(encoding="utf-8"))
        windows, slept = -(-len(tokens) // L), self.counts.sleeps
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, TimeRemainingColumn(), console=self.log) as bar:
            task = bar.add_task(file.name, total=max(1, len(tokens)), note="")

            def show(event: SleepEvent | None, at: int = 0) -> None:
                sleep = "awake" if event is None else f"asleep, {told(event)}"
                sleeps = self.counts.sleeps - slept
                bar.update(task, note=f"window {at}/{windows}, {sleeps} sleeps; {sleep}")

            for at in range(windows):
                with self.showing(lambda event, at=at: show(event, at)):
                    session.feed(tokens[at * L : (at + 1) * L], last_only=True)
                show(None, at + 1)
                bar.update(task, completed=min(len(tokens), (at + 1) * L))
            with self.showing(lambda event: show(event, windows)):
                session.sleep()
            note = f"{windows} windows, {self.counts.sleeps - slept} sleeps"
            bar.update(task, completed=max(1, len(tokens)), note=note)
        self.counts.tokens += len(tokens)

    @contextmanager
    def showing(self, show: Callable[[SleepEvent], None]) -> Iterator[None]:
        """Shows the passes of the sleeps within."""
        before, self.counts.show = self.counts.show, show
        try:
            yield
        finally:
            self.counts.show = before

    def ask(self, question: str) -> None:
        """Sleeps, asks, and prints the answer as it comes; Ctrl-C ends it."""

        def show(event: SleepEvent) -> None:
            if event.done:
                self.log.print(f"[dim]slept on {event.n_tokens} tokens: {told(event)}[/]")

        with self.showing(show), suppress(KeyboardInterrupt):
            pieces = iter(self.session.stream(question, self.max_new_tokens, **self.how))
            begun = next((text for piece in pieces if (text := piece.lstrip())), "")  # without the space before it
            for piece in chain([begun], pieces):
                self.out.print(printable(piece), end="", markup=False, highlight=False, soft_wrap=True)
        self.out.print()

    def command(self, word: str, rest: str) -> None:
        """One that begins with a slash. Raises ValueError if there is none like it, or it lacks its file."""
        if word in ("/read", "/save") and not rest:
            raise ValueError(f"{word} must name a file")
        if word == "/read":
            self.read(Path(rest).expanduser())
        elif word == "/save":
            self.session.save(Path(rest).expanduser())
            self.log.print(f"{rest}: {self.session.nbytes:,} bytes of memory", highlight=False)
        elif word == "/fork":
            self.forks.append(ExitStack())
            self.sessions.append(self.forks[-1].enter_context(self.session.fork()))
        elif word == "/back" and self.forks:
            self.sessions.pop()
            self.forks.pop().close()
        elif word == "/forget":
            self.session.forget()
        elif word == "/sleep":
            self.session.sleep()
        elif word == "/stats":
            self.log.print(self.stats())
        elif word == "/help":
            self.log.print(HELP, markup=False, highlight=False)
        else:
            raise ValueError(f"there is no command {word} here; /help lists them")

    def stats(self) -> Table:
        """What was read and what is held."""
        session, counts, table = self.session, self.counts, Table(show_header=False)
        fresh = session.groups[0].cache.fresh if session.groups else 0
        norms = ", ".join(f"{norm:.2f}" for norm in session.fast_weights.norms()[:, 0].tolist())
        rows = {
            "documents read": f"{counts.tokens:,} tokens",
            "window": f"{fresh} of {session.model.window_size} tokens",
            "sleeps": f"{counts.sleeps:,}, {counts.passes:,} passes, {counts.seconds:.1f} s",
            "last sleep": told(counts.last) if counts.last else "none yet",
            "|S| of each layer": norms or "no fast weights",
            "memory": f"{session.nbytes:,} bytes",
            "forks open": str(len(self.forks)),
        }
        for name, value in rows.items():
            table.add_row(name, value)
        return table

    def loop(self, lines: Callable[[str], str] = input) -> None:
        """Answers line by line until the input ends."""
        with suppress(ImportError):
            import readline  # noqa: F401  (lets `input` edit and remember)
        while True:
            try:
                line = lines(f"{'fork ' * len(self.forks)}> ").strip()
            except (EOFError, KeyboardInterrupt):
                return
            word, _, rest = line.partition(" ")
            if word in ("/quit", "/exit"):
                return
            try:
                if line.startswith("/"):
                    self.command(word, rest.strip())
                elif line:
                    self.ask(line)
            except (ValueError, OSError) as error:
                self.log.print(f"error: {sentence(error)}", style="red", markup=False, highlight=False)


def open_chat(
    model: str,
    memory: Path | None,
    n_passes: int | None,
    eviction: Eviction | None,
    tokenizer: str | None,
    question: str | None,
    device: str | None,
) -> Session:
    """The session of the command line, with what `memory` holds if the file is there."""
    options = {} if tokenizer is None else {"tokenizer": tokenizer}
    session = Session.from_pretrained(model, n_passes, eviction, device=device, **options)
    if session.speech is None:
        raise ValueError(f"tokenizer must be given, since there is no tokenizer.json in {model}")
    if question is not None:
        if QUESTION not in question:
            raise ValueError(f"question must have {QUESTION} in it, got {question!r}")
        session.speech = replace(session.speech, question=question)
    if memory is None or not memory.is_file():
        return session
    for name, value in (("n_passes", n_passes), ("eviction", eviction)):
        if value is not None:
            raise ValueError(f"{name} must be left out with a memory, which goes on as it was, got {value!r}")
    return Session.load(memory, session.model, tokenizer=session.speech)


def main(
    model: str,
    read: list[Path] = [],  # noqa: B006
    memory: Path | None = None,
    ask: str | None = None,
    n_passes: int | None = None,
    eviction: Eviction | None = None,
    tokenizer: str | None = None,
    question: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int | None = None,
    device: str | None = None,
) -> None:
    """The command.

    Args:
        model: folder of `lmsleep export`, `lmsleep finetune` or `save_pretrained`, or a name on the Hugging Face hub.
        read: documents to read first.
        memory: file to go on from, if it is there; what was read is kept in it, questions are not.
        ask: one question; its answer alone goes to stdout.
        n_passes: N; by default that of the training.
        eviction: by default that of the training.
        tokenizer: folder, file, name on the hub, or `bytes`; by default that of the model's folder.
        question: what stands around a question, with {question} in it; by default as in the training.
        max_new_tokens: the most that an answer has.
        temperature: 0 takes the most likely token.
        top_k: draw from as many of the most likely tokens.
        top_p: draw from the smallest set of these whose probabilities sum to top_p.
        seed: of the draws.
        device: such as cuda.

    Raises:
        ValueError: if an argument is out of range.
    """
    how = Drawing(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    sampler(**how)  # refuses before the model is loaded
    check_integer("max_new_tokens", max_new_tokens, 1, 2**63 - 1)
    for file in read:
        if not file.is_file():
            raise ValueError(f"read must name files, but there is none at {str(file)!r}")
    session = open_chat(model, memory, n_passes, eviction, tokenizer, question, device)
    chat = Chat(session, max_new_tokens, how, Console(highlight=False), Console(stderr=True, highlight=False))
    for file in read:
        chat.read(file)
    if read and memory is not None:
        session.save(memory)
    if ask is not None:
        chat.ask(ask)
        return
    config = session.model.config
    chat.log.print(
        f"{config.pattern}, {config.num_params():,} parameters, window of {config.window_size} tokens, "
        f"N = {session.n_passes}, {session.eviction} eviction. /help lists the commands."
    )
    chat.loop()
