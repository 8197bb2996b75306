"""Text that is already HTML, kept apart from text that is not."""

import html as stdlib
from collections.abc import Iterable, Sequence
from typing import Any

from lmsleep.pipeline.report.results import AT_PAPER_SCALE, OPPOSITE, SAME, Verdict

TONE = {SAME: "good", OPPOSITE: "bad", AT_PAPER_SCALE[0]: "good", AT_PAPER_SCALE[1]: "bad"}


class Html(str):
    """Text that may stand in a page as it is."""

    __slots__ = ()


def html(template: str, *values: Any) -> Html:
    """`template` with a value for each `{}`; a value that is no Html is escaped."""
    return Html(template.format(*(v if isinstance(v, Html) else stdlib.escape(str(v)) for v in values)))


def join(parts: Iterable[Html]) -> Html:
    """Pieces of HTML one after another."""
    return Html("".join(parts))


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    """A table that scrolls sideways in a box of its own, below its title; a whole `<td>` is taken as it is."""
    head = join(html("<th scope='col'>{}</th>", name) for name in header)
    body = join(html("<tr>{}</tr>", join(map(_cell, row))) for row in rows)
    return html(
        "<div class='card'><p class='title'>{0}</p><div class='scroll' role='region' aria-label='{0}' tabindex='0'>"
        "<table aria-label='{0}'><thead><tr>{1}</tr></thead><tbody>{2}</tbody></table></div></div>",
        title,
        head,
        body,
    )


def _cell(value: Any) -> Html:
    whole = isinstance(value, Html) and value.startswith("<td")
    return value if whole else html("<td>{}</td>", value)


def badge(verdict: Verdict | None) -> Html:
    """The verdict as a coloured word; a dash where there is none."""
    if verdict is None:
        return html("<span title='no verdict'>{}</span>", "–")
    return html("<strong class='badge {}'>{}</strong>", TONE.get(verdict.word, ""), verdict.word)
