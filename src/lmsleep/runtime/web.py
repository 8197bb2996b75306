"""The page of `lmsleep chat --web`: a text goes by window by window, each sleep changes S, the same weights are asked
twice, awake and asleep. Only `page` and `serve` need gradio."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lmsleep.checks import counted
from lmsleep.errors import error_sentence
from lmsleep.runtime.events import SleepEvent
from lmsleep.runtime.sampling import Sampling
from lmsleep.runtime.session import Session

MAX_WINDOWS = 60  # windows on the page, the newest
CSS = """
.windows {display: flex; flex-direction: column-reverse; max-height: 20rem; overflow-y: auto}  /* the newest in sight */
.windows div {line-height: 1.8; overflow-wrap: anywhere; white-space: pre-wrap}
.windows span {padding: .1rem .25rem; border-radius: .25rem; background: rgba(128, 128, 128, .18)}
.windows .awake {background: none; outline: 1px solid currentColor}
.windows sup {margin-right: .2rem}
.changes {max-height: 20rem; overflow: auto}
.changes table {border-collapse: collapse; font-variant-numeric: tabular-nums}
.changes th, .changes td {padding: .15rem .6rem; text-align: right; white-space: nowrap}
"""


@dataclass(frozen=True)
class ShownWindow:
    """A window that was read. changes: of S by each pass of its sleep, mean over layers; None: it is awake."""

    text: str
    changes: tuple[float, ...] | None = None


class SessionPair:
    """The same weights with two empty memories of the same texts: one that is always awake (N = 1), one that sleeps.

    Args:
        session: that has model and tokenizer.
    """

    def __init__(self, session: Session, n_passes: int) -> None:
        assert session.prompter is not None
        self.prompter = session.prompter
        self.sessions = [Session(session.model, n, session.eviction, tokenizer=self.prompter) for n in (1, n_passes)]
        self.sessions[1].callbacks = (self.on_sleep,)
        self.windows: list[ShownWindow] = []
        self.documents: list[str] = []  # to read again for each question, if that is read first
        self.answers: tuple[str, str] = ("", "")

    def on_sleep(self, event: SleepEvent) -> None:
        """Records the change of S in a sleep."""
        self.windows[-1] = ShownWindow(self.windows[-1].text, event.changes)

    def read(self, document: str | Path) -> Iterator[None]:
        """Reads a text or a file in the format of the training; yields after each window and each sleep."""
        prompter = self.prompter
        self.prompter, text = prompter.open_document(document)
        for session in self.sessions:
            session.prompter = self.prompter
        if text and prompter.question_first:
            self.documents.append(text)
            self.windows.append(ShownWindow(f"{len(text):,} characters, to be read once the question is known"))
            yield
        else:
            yield from self.read_by_windows(text)

    def read_by_windows(self, document: str | None, question: str | None = None) -> Iterator[None]:
        """Reads the windows of a document, as of `Prompter.texts`; yields as `read`."""
        for tokens in self.prompter.document_windows(document, question, self.sessions[1].model.window_size):
            self.windows.append(ShownWindow(self.prompter.decode(tokens)))
            for session in self.sessions:
                session.feed(tokens, last_only=True)
            yield
            for session in self.sessions:
                session.sleep()
            yield

    def ask(self, question: str, max_new_tokens: int, how: Sampling) -> Iterator[None]:
        """Asks both in forks; yields after each piece of the answers."""
        self.answers = ("", "")
        if self.prompter.question_first:
            fresh = SessionPair(self.sessions[1], self.sessions[1].n_passes)
            self.sessions, self.windows = fresh.sessions, fresh.windows
            for document in self.documents:
                yield from self.read_by_windows(document, question)
            question = self.prompter.remaining_question(question)
        with self.sessions[0].fork() as awake, self.sessions[1].fork() as asleep:
            asleep.callbacks = ()  # it may sleep during a long answer
            streams = [session.stream(question, max_new_tokens, **how) for session in (awake, asleep)]
            for pieces in zip_longest(*streams, fillvalue=""):
                awake_text, asleep_text = (text + piece for text, piece in zip(self.answers, pieces, strict=True))
                self.answers = awake_text, asleep_text
                yield

    def render(self) -> tuple[str, ...]:
        """Windows and changes of S in HTML, and the two answers."""
        return stream_html(self.windows), changes_html(self.windows), *self.answers


def stream_html(windows: Sequence[ShownWindow]) -> str:
    """The windows: grey after their sleep, framed while awake."""
    spans = [f"… {counted(len(windows) - MAX_WINDOWS, 'windows')} before"] if len(windows) > MAX_WINDOWS else []
    for number, window in list(enumerate(windows, 1))[-MAX_WINDOWS:]:
        state = ' class="awake"' if window.changes is None else ""
        spans.append(f"<span{state}><sup>{number}</sup>{escape(window.text)}</span>")
    return f'<div class="windows"><div>{" ".join(spans) or "Nothing was read yet."}</div></div>'


def changes_html(windows: Sequence[ShownWindow]) -> str:
    """A table of |S_n - S_(n-1)| / |S_n| by window, the newest first, and pass."""
    rows = [(number, window.changes) for number, window in enumerate(windows, 1) if window.changes]
    rows = rows[: -MAX_WINDOWS - 1 : -1]
    if not rows:
        return "None was made: with N = 1, or before the first sleep, only the wake pass writes S."
    largest = max(change for _, changes in rows for change in changes) or 1.0
    names = ("window", *(f"pass {2 + i}" for i in range(len(rows[0][1]))))
    lines = ["".join(f'<th scope="col">{name}</th>' for name in names)]
    for number, changes in rows:
        cells = (f'<td style="background: rgba(249, 115, 22, {0.65 * c / largest:.2f})">{c:.1%}</td>' for c in changes)
        lines.append(f'<th scope="row">{number}</th>{"".join(cells)}')
    return f'<div class="changes"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def page(session: Session, files: Sequence[Path], max_new_tokens: int, how: Sampling) -> Any:
    """The page as gradio's Blocks. Every visitor has their own `SessionPair`, which reads `files` first."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    def shown(pair: SessionPair, steps: Iterator[None]) -> Iterator[tuple[Any, ...]]:
        try:
            for _ in steps:
                yield pair, *pair.render()
        except (ValueError, OSError) as error:
            raise gr.Error(error_sentence(error)) from None

    def begin(n_passes: int) -> Iterator[tuple[Any, ...]]:
        pair = SessionPair(session, int(n_passes))
        yield pair, *pair.render()
        for file in files:
            yield from shown(pair, pair.read(file))

    def read(pair: SessionPair, text: str, uploaded: Sequence[str] | None) -> Iterator[tuple[Any, ...]]:
        written = [text] if text.strip() else []
        for document in (*written, *map(Path, uploaded or ())):
            yield from shown(pair, pair.read(document))

    def ask(pair: SessionPair, question: str) -> Iterator[tuple[Any, ...]]:
        yield from shown(pair, pair.ask(question.strip(), max_new_tokens, how))

    config = session.model.config
    with gr.Blocks(title="lmsleep", analytics_enabled=False) as blocks:
        gr.Markdown(
            f"# A language model that sleeps\n{config.pattern}, {config.num_params():,} parameters. It sees "
            f"{config.window_size} tokens; when they are full it sleeps, and only the fast weights S remain."
        )
        with gr.Row():
            with gr.Column(min_width=300):
                text = gr.Textbox(label="Text to read", lines=5, max_lines=12)
                uploaded = gr.File(label="Files to read", file_count="multiple", height=120)
                most = max(8, session.n_passes)
                n_passes = gr.Slider(1, most, session.n_passes, step=1, label="N passes over a window, from anew")
                with gr.Row():
                    reads = gr.Button("Read", variant="primary", min_width=100)
                    anew = gr.Button("Begin anew", min_width=100)
            with gr.Column(min_width=300, scale=2):
                gr.Markdown("### What went by\nGrey was slept on and is gone from sight; framed is awake.")
                stream = gr.HTML(apply_default_css=False)
                gr.Markdown("### By how much each pass of a sleep changed S")
                changes = gr.HTML(apply_default_css=False)
        question = gr.Textbox(label="Question, which leaves no trace", submit_btn="Ask")
        with gr.Row():
            awake = gr.Textbox(label="Awake, N = 1", lines=3, interactive=False, min_width=280)
            asleep = gr.Textbox(label="Asleep, N passes", lines=3, interactive=False, min_width=280)
        outputs = [pair := gr.State(time_to_live=3600), stream, changes, awake, asleep]
        one_by_one = {"concurrency_id": "pair", "concurrency_limit": 1}  # concurrent events would mix their texts
        gr.on([blocks.load, anew.click, n_passes.release], begin, n_passes, outputs, **one_by_one)
        reads.click(read, [pair, text, uploaded], outputs, **one_by_one)
        question.submit(ask, [pair, question], outputs, **one_by_one)
    return blocks


def serve(session: Session, files: Sequence[Path], max_new_tokens: int, how: Sampling) -> None:
    """Shows the page until Ctrl-C."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    theme = gr.themes.Default(font="system-ui", font_mono="monospace")  # others are fetched from the web
    page(session, files, max_new_tokens, how).launch(css=CSS, theme=theme, footer_links=[])
