"""The chat in a terminal: documents, questions, and commands that begin with a slash."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from os.path import expanduser
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from lmsleep.checks import counted
from lmsleep.errors import error_sentence
from lmsleep.runtime.answer import printable
from lmsleep.runtime.events import SleepEvent
from lmsleep.runtime.sampling import Sampling
from lmsleep.runtime.session import Session

HELP = """/read FILE   read another document
/fork        what follows leaves no trace after /back
/forget      all that was read and asked; what is then known is in the weights
/sleep       sleep on the window now
/save FILE   keep the memory, for --memory FILE
/stats       what was read and what is held
/quit        or Ctrl-D; Ctrl-C ends an answer or a reading"""


@dataclass
class ChatLevel:
    """A session or fork; and the documents (name, text) to read again for each question, if that is read first."""

    session: Session
    documents: list[tuple[str, str]] = field(default_factory=list)


class Chat:
    """A chat on a session and its open forks.

    Args:
        how: sampling options.
        out: for answers. log: for all else.
    """

    def __init__(self, session: Session, max_new_tokens: int, how: Sampling, out: Console, log: Console) -> None:
        self.levels = [ChatLevel(session)]
        self.max_new_tokens, self.how = max_new_tokens, how
        self.out, self.log = out, log
        self.n_tokens, self.n_sleeps, self.seconds = 0, 0, 0.0
        self.last_sleep: SleepEvent | None = None
        self.show: Callable[[SleepEvent], None] = lambda event: None
        session.callbacks = (*session.callbacks, self.on_sleep)

    @property
    def session(self) -> Session:
        return self.levels[-1].session

    def on_sleep(self, event: SleepEvent) -> None:
        """Counts sleeps, and shows their passes."""
        if event.done:
            self.n_sleeps += 1
            self.seconds += event.seconds
            self.last_sleep = event
        self.show(event)

    def read(self, file: Path) -> None:
        """Reads a document or, from a .json file, a conversation, in the format of the training."""
        session = self.session
        assert session.prompter is not None
        if not session.prompter.question_first:
            self.show_reading(session, file.name, file)
            return
        session.prompter, text = session.prompter.open_document(file)
        self.levels[-1].documents.append((file.name, text or ""))
        self.log.print(f"{file.name}: is read once its question is known", highlight=False)

    def show_reading(self, session: Session, name: str, document: str | Path, question: str | None = None) -> None:
        """`Session.read` with a progress bar."""
        before = self.n_sleeps
        note = TextColumn("{task.fields[window]}{task.fields[state]}")
        columns = TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn(), note, TimeRemainingColumn()
        with Progress(*columns, console=self.log) as bar:
            task = bar.add_task(name, total=None, window="", state="")

            def show_window(number: int, total: int) -> None:
                window = f"window {number}/{total}, {counted(self.n_sleeps - before, 'sleeps')}; "
                bar.update(task, total=total, completed=number - 1, window=window, state="awake")

            with self.showing(lambda event: bar.update(task, state=f"asleep, {event}")):
                self.n_tokens += session.read(document, question, on_window=show_window)
            windows = int(bar.tasks[0].total or 0)
            sleeps = counted(self.n_sleeps - before, "sleeps")
            bar.update(task, completed=windows, window=f"{counted(windows, 'windows')}, ", state=sleeps)

    @contextmanager
    def showing(self, show: Callable[[SleepEvent], None]) -> Iterator[None]:
        """Calls `show` for the passes of sleeps within the block."""
        before, self.show = self.show, show
        try:
            yield
        finally:
            self.show = before

    def ask(self, question: str) -> None:
        """Sleeps, asks, and streams the answer, whose line Ctrl-C ends, too."""

        def show(event: SleepEvent) -> None:
            if event.done:
                notes.append(f"[dim]slept on {counted(event.n_tokens, 'tokens')}: {event}[/]")

        notes: list[str] = []  # not within the line of an answer
        with self.showing(show):
            session, prompter = self.session, self.session.prompter
            if prompter and prompter.question_first:
                session = deepcopy(session)
                for name, text in self.levels[-1].documents:
                    self.show_reading(session, name, text, question)
                question = prompter.remaining_question(question)
            pieces = session.stream(question, self.max_new_tokens, **self.how)
            beginning = next(pieces, "")
            while notes:
                self.log.print(notes.pop(0))
            try:
                for piece in chain([beginning], pieces):
                    self.out.print(printable(piece), end="", markup=False, highlight=False, soft_wrap=True)
            finally:
                self.out.print()
        for note in notes:
            self.log.print(note)

    def command(self, word: str, rest: str) -> None:
        """Runs a command that begins with a slash. Raises ValueError if it is unknown, or its file is missing."""
        if word in ("/read", "/save") and not rest:
            raise ValueError(f"{word} must name a file")
        if word == "/read":
            self.read(Path(expanduser(rest)))
        elif word == "/save":
            self.session.save(Path(expanduser(rest)))
            self.log.print(f"{rest}: {self.session.nbytes:,} bytes of memory", highlight=False)
        elif word == "/fork":
            self.levels.append(deepcopy(self.levels[-1]))
        elif word == "/back" and self.levels[1:]:
            self.levels.pop()
        elif word == "/forget":
            self.session.reset()
            self.levels[-1].documents.clear()
        elif word == "/sleep":
            self.session.sleep()
        elif word == "/stats":
            self.log.print(self.stats())
        elif word == "/help":
            self.log.print(HELP, markup=False, highlight=False)
        else:
            raise ValueError(f"there is no command {word} here; /help lists them")

    def stats(self) -> Table:
        """A table of counts and memory."""
        session = self.session
        fresh = session.groups[0].cache.fresh if session.groups else 0
        norms = ", ".join(f"{norm:.2f}" for norm in session.fast_weights.norms()[:, 0].tolist())
        passes = "" if session.on_overflow else f"{self.n_sleeps * session.n_passes:,} passes, "
        rows = {
            "documents read": counted(self.n_tokens, "tokens"),
            "window": f"{fresh} of {session.model.window_size} tokens",
            "sleeps": f"{self.n_sleeps:,}, {passes}{self.seconds:.1f} s",
            "last sleep": str(self.last_sleep or "none yet"),
            "|S| of each layer": norms or "no fast weights",
            "memory": f"{session.nbytes:,} bytes",
            "forks open": str(len(self.levels) - 1),
        }
        table = Table(show_header=False)
        for name, value in rows.items():
            table.add_row(name, value)
        return table

    def loop(self, lines: Callable[[str], str] = input) -> None:
        """Answers line by line until the input ends."""
        with suppress(ImportError):
            import readline  # noqa: F401  (lets `input` edit and remember)
        while True:
            try:
                line = lines(f"{'fork ' * (len(self.levels) - 1)}> ").strip()
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
            except KeyboardInterrupt:
                self.log.print("\nstopped; what was read by then is kept")
            except (ValueError, OSError) as error:
                self.log.print(f"error: {error_sentence(error)}", style="red", markup=False, highlight=False)
