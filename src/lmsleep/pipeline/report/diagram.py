"""The mechanism in four pictures of the same three parts: attention cache, blocks, fast weights."""

from html import escape

CELLS = 6  # the window size L of the drawing
CELL, GAP, LEFT, TOP = 28, 6, 22, 30
MIDDLE = LEFT + (CELLS * (CELL + GAP) - GAP) // 2


def diagram() -> str:
    """An ordered list of wake, overflow, sleep and eviction, each an inline SVG and a sentence."""
    steps = (
        (
            "Wake",
            wake(),
            "Tokens are read one by one. Attention sees the current window through its cache; "
            "each block also writes what it reads into its fast weights S.",
            "Four of six cells of the attention cache are filled and a token comes in. "
            "An arrow leads through the blocks into the fast weights.",
        ),
        (
            "Overflow",
            overflow(),
            "The cache holds L tokens and the next one does not fit. The model falls asleep.",
            "All six cells of the attention cache are filled; a seventh token is left outside.",
        ),
        (
            "Sleep",
            asleep(),
            "Passes 2 … N run over the same window: each starts from the hidden sequence h and the S "
            "that the pass before left. The slow weights stay as they are.",
            "The cache is full. An arrow leads from the output of the blocks back to their input, labelled h, "
            "passes 2 to N; a double arrow joins blocks and fast weights, which have grown darker.",
        ),
        (
            "Eviction",
            evicted(),
            "Cache and h are dropped (sliding eviction keeps the newest L − 1 tokens). Under hard eviction "
            "S alone crosses into the next window, and later answers are one ordinary pass.",
            "The cache is empty and the blocks are pale. One arrow, from the fast weights, "
            "crosses the dashed line of the window boundary.",
        ),
    )
    items = (
        f'<li><svg viewBox="0 0 280 282" role="img" aria-label="{escape(alt)}">{drawing}</svg>'
        f"<div><h3>{title}</h3><p>{escape(sentence)}</p></div></li>"
        for title, drawing, sentence, alt in steps
    )
    return f'<ol class="steps">{"".join(items)}</ol>'


def wake() -> str:
    """A token comes in and is written into the fast weights."""
    x, y = x_of(4) + CELL // 2, TOP + CELL
    incoming = f'<path class="arrow" d="M262 {y + 20} H{x} V{y + 10}"/>' + head((x, y + 3), (0, -1))
    return cells(4) + cell(4, "token new") + incoming + label(220, y + 14, "next token") + through(0.3)


def overflow() -> str:
    """A token finds no room in the cache."""
    outside = f'<rect class="token left-out" x="236" y="{TOP}" width="{CELL}" height="{CELL}" rx="5"/>'
    return cells(CELLS) + outside + label(250, 22, "no room", "alarm") + through(0.3)


def asleep() -> str:
    """The passes of a sleep."""
    back = '<path class="arrow loop" d="M224 133 H254 V82 H176 V90"/>' + head((176, 98), (0, 1), "loop")
    both = arrow((MIDDLE - 7, 168), (MIDDLE - 7, 194)) + arrow((MIDDLE + 7, 194), (MIDDLE + 7, 168))
    return cells(CELLS) + blocks() + back + label(214, 76, "h, passes 2 … N", "loop") + both + fast_weights(1.0)


def evicted() -> str:
    """The cache is empty, and S alone goes on."""
    boundary = '<path class="boundary" d="M248 20 V276"/>' + label(246, 14, "window boundary", "end")
    crossing = arrow((186, 218), (274, 218), "crossing") + label(214, 208, "only S", "crossing")
    empty = "".join(cell(i, "empty") for i in range(CELLS))
    return caption_of_cache() + empty + f'<g class="pale">{blocks()}</g>' + boundary + fast_weights(1.0) + crossing


def through(strength: float) -> str:
    """The way of a pass: cache to blocks to fast weights."""
    down = arrow((MIDDLE, TOP + CELL + 3), (MIDDLE, 98)) + arrow((MIDDLE, 168), (MIDDLE, 194))
    return down + blocks() + label(MIDDLE + 10, 185, "writes", "start") + fast_weights(strength)


def cells(filled: int) -> str:
    """The attention cache with so many tokens in it."""
    return caption_of_cache() + "".join(cell(i, "token" if i < filled else "empty") for i in range(CELLS))


def caption_of_cache() -> str:
    """The name above the attention cache."""
    return label(LEFT, 22, "attention cache", "start")


def cell(i: int, kind: str) -> str:
    """Place i of the attention cache."""
    return f'<rect class="{kind}" x="{x_of(i)}" y="{TOP}" width="{CELL}" height="{CELL}" rx="5"/>'


def x_of(i: int) -> int:
    """The left edge of place i of the cache."""
    return LEFT + i * (CELL + GAP)


def blocks() -> str:
    """The stack of blocks."""
    layers = (
        f'<rect class="layer" x="{LEFT + 6}" y="{y}" width="188" height="26" rx="5"/>{label(MIDDLE, y + 18, name)}'
        for y, name in ((106, "attention"), (135, "fast-weight layer"))
    )
    return f'<rect class="blocks" x="{LEFT}" y="100" width="200" height="66" rx="9"/>{"".join(layers)}'


def fast_weights(strength: float) -> str:
    """Two matrices whose cells are the darker the more has been written."""
    squares = (
        f'<rect class="weight" x="{MIDDLE + x + 11 * column}" y="{198 + 11 * row}" width="10" height="10" rx="2" '
        f'fill-opacity="{strength * (0.25 + 0.75 * ((5 * row + 3 * column + x) % 7) / 6):.2f}"/>'
        for x in (-56, 12)
        for row in range(4)
        for column in range(4)
    )
    return "".join(squares) + label(MIDDLE, 262, "fast weights S")


def label(x: float, y: float, text: str, kind: str = "") -> str:
    """A piece of text; `kind` is its class in the style sheet."""
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'


def arrow(start: tuple[int, int], end: tuple[int, int], kind: str = "") -> str:
    """A straight arrow along one axis."""
    (x0, y0), (x1, y1) = start, end
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    shaft = f'<path class="arrow {kind}" d="M{x0} {y0} L{x1 - 7 * dx} {y1 - 7 * dy}"/>'
    return shaft + head(end, (dx, dy), kind)


def head(tip: tuple[int, int], towards: tuple[int, int], kind: str = "") -> str:
    """The head of an arrow that ends in `tip`; `towards` is a unit vector along one axis."""
    (x, y), (dx, dy) = tip, towards
    corners = (f"{x - 7 * dx + side * 4 * dy} {y - 7 * dy + side * 4 * dx}" for side in (-1, 1))
    return f'<path class="head {kind}" d="M{x} {y} L{" L".join(corners)} z"/>'
