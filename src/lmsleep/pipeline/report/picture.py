"""A figure's picture inside the page."""

import base64

from lmsleep.pipeline.report.markup import Html, html
from lmsleep.pipeline.report.results import Result

WIDE = 2.2  # width over height from which a picture takes the whole width of the page


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
    kind, focus, hint = "plot", "", ""
    if is_wide(result.png):
        kind, focus = "plot wide", Html(" tabindex='0'")
        hint = html("<span class='sideways'>Scroll the picture sideways to see all of it.</span>")
    return html(
        "<figure><div class='{}'{}><img src='data:image/png;base64,{}' width='{}' height='{}' alt='{}'></div>"
        "<figcaption>Ours, {} scale. {}</figcaption></figure>",
        kind,
        focus,
        base64.b64encode(result.png).decode(),
        width,
        height,
        alternative(result),
        scale,
        hint,
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
    if png is None:
        return False
    width, height = size_of(png)
    return width > WIDE * height
