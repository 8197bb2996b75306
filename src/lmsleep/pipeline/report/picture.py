"""A figure's picture inside the page."""

import base64

from lmsleep.pipeline import style
from lmsleep.pipeline.report.markup import Html, html
from lmsleep.pipeline.report.results import Result

WIDE = 2.2  # width over height from which a picture takes the whole width of the page
LEGIBLE = 72  # pixels on the screen for an inch of the picture: 10 point text is 10 pixels high


def picture(scale: str, result: Result) -> Html:
    """The figure as a data URI, with an alternative text that says what it shows; or what is missing."""
    name = result.caption.name
    if result.png is None:
        return html(
            "<p class='missing'>Not among the results of {} scale (no {}). Where the pipeline draws it at this scale, "
            "<code>dvc repro {}</code> does.</p>",
            scale,
            " and no ".join(result.missing),
            name,
        )
    width, height = size_of(result.png)
    kind = " wide" if is_wide(result.png) else ""
    return html(
        "<figure><div class='plot{0}' tabindex='0'><img src='data:image/png;base64,{1}' width='{2}' height='{3}' "
        "style='min-width: {4}px' alt='{5}'></div><figcaption>Ours, {6} scale. "
        "<span class='sideways{0}'>Scroll the picture sideways to see all of it.</span></figcaption></figure>",
        kind,
        base64.b64encode(result.png).decode(),
        width,
        height,
        round(width / style.RC["savefig.dpi"] * LEGIBLE),
        alternative(result),
        scale,
    )


def alternative(result: Result) -> str:
    """What the picture draws, and in words what it ends in."""
    ends = []
    for record in result.numbers.get("test_exact", []):
        place = [result.caption.at(record["slice"])] if "slice" in record else []
        place += [f"N = {record['n_passes']}"] if "n_passes" in record else []
        ends.append(f"{', '.join(place)}: {100 * record['value']:.0f} %")
    return result.caption.shows + (f" Test accuracy at the end: {'; '.join(ends)}." if ends else "")


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header of the file."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def is_wide(png: bytes | None) -> bool:
    """Whether a picture takes the whole width of the page."""
    if png is None:
        return False
    width, height = size_of(png)
    return width > WIDE * height
