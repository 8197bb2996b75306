"""The page: one HTML document that loads nothing from anywhere."""

from collections.abc import Sequence

import pandas as pd

from lmsleep.pipeline.report.captions import Caption
from lmsleep.pipeline.report.diagram import diagram
from lmsleep.pipeline.report.markup import Html, badge, html, join, table
from lmsleep.pipeline.report.picture import is_wide, picture
from lmsleep.pipeline.report.results import Result, difference
from lmsleep.pipeline.report.style import CSS
from lmsleep.pipeline.report.tables import control_rows, our_rows, paper_notes, paper_rows, plain_rows
from lmsleep.pipeline.style import readable

PAPER = "https://arxiv.org/abs/2605.26099"
SCALES = {
    "smoke": "Smoke scale: a few steps of training, which show that every stage runs. The numbers mean nothing.",
    "mini": "Mini scale: small models, short training, on a CPU. Only the direction of an effect can be compared with "
    "the paper, never a value.",
    "paper": "Paper scale: the sizes that the paper states, trained for the tokens that stand under each figure.",
}
READING = (
    (
        "right",
        "The share of test answers that are right in all their tokens. Test rows are drawn apart from training rows "
        "and are the same for every N and seed.",
    ),
    (
        "over seeds (logit t)",
        "The 95 % interval of Student's t on the logit scale for the mean over seeds. One seed gives none.",
    ),
    (
        "over one seed's rows (Wilson)",
        "The 95 % Wilson interval of a proportion, over the test rows of a figure with one seed: answers of one row "
        "stand together. It knows nothing of how much training runs differ.",
    ),
    (
        "points from N = 1",
        "Percentage points, paired by seed: the same seed sees the same batches for every N. In brackets the 95 % "
        "interval of Student's t over seeds, cut to what a difference can be.",
    ),
    (
        "verdict",
        "Below paper scale, only the direction of an effect: the largest N against the smallest (in figure 2a, the "
        "largest t), over all answers together. It is undecided unless the interval of the paired difference lies "
        "wholly on one side of zero; one seed always leaves it undecided.",
    ),
    (
        "relative gain",
        "In the paper's tables: its accuracy at this N over its accuracy at N = 1, less one, as it prints it.",
    ),
    (
        "N not known",
        "The paper prints the value, but not in a way that tells which N it belongs to. Its numbers and ours never "
        "share a column.",
    ),
)


def page(scale: str, results: Sequence[Result], paper: pd.DataFrame) -> str:
    """The report of a scale; `paper` as `paper_values` reads it."""
    links = join(html("<li><a href='#{0}'>{0}</a></li>", result.caption.name) for result in results)
    sections = join(section(scale, result, paper[paper.figure == result.caption.name]) for result in results)
    body = html(
        "<header><h1>Do language models need sleep?</h1>"
        "<p class='lead'>A replication of <a href='{}'>arXiv 2605.26099</a>: N passes over a full attention window "
        "write it into fast weights before it is evicted. {}</p>"
        "<nav aria-label='On this page'><ul><li><a href='#glance'>at a glance</a></li>"
        "<li><a href='#mechanism'>mechanism</a></li>{}<li><a href='#reading'>reading the numbers</a></li>"
        "<li><a href='#made-with'>made with</a></li></ul></nav></header><main>{}{}{}{}{}</main>",
        PAPER,
        SCALES[scale],
        links,
        glance(results),
        mechanism(),
        sections,
        reading(),
        made_with(results),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>Do language models need sleep? Report at {scale} scale</title><style>{CSS}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def glance(results: Sequence[Result]) -> Html:
    """A line for each figure: verdict, the difference that decides it, seeds and tokens."""
    rows = []
    for result in results:
        why = "not among these results" if result.png is None else "not compared with the paper"
        why = result.verdict.sentence if result.verdict else why
        name = html("<a href='#{0}'>{0}</a>", result.caption.name)
        rows.append((name, badge(result.verdict), html("<td class='text'>{}</td>", why), seeds(result), tokens(result)))
    header = ("figure", "verdict", "why", "seeds", "tokens a run")
    return html(
        "<section id='glance' aria-label='At a glance'><h2>At a glance</h2>{}</section>",
        table("Verdict on each figure", header, rows),
    )


def mechanism() -> Html:
    """The mechanism in pictures."""
    return html(
        "<section id='mechanism' aria-label='Mechanism'><h2>What happens when the window is full</h2>"
        "<p>N counts all passes, the wake pass among them: N = 1 is the plain hybrid, which never goes over a window "
        "again. Training sends gradients back through every pass, and they reach a sleep through S alone.</p>{}"
        "</section>",
        Html(diagram()),
    )


def section(scale: str, result: Result, paper: pd.DataFrame) -> Html:
    """Heading, verdict, picture beside the paper's numbers, our numbers, and what they were made with."""
    caption = result.caption
    verdict = html("<p>{} {}</p>", badge(result.verdict), result.verdict.sentence) if result.verdict else ""
    unprinted = paper.empty and not caption.ours
    return html(
        "<section class='figure' id='{0}' aria-label='{1}'><h2><a href='#{0}'>{1}</a></h2>{2}"
        "<p>{3}{4}{5}</p><div class='{6}'>{7}{8}</div>{9}{10}</section>",
        caption.name,
        caption.title,
        verdict,
        "" if caption.ours else Html("<strong>In the paper:</strong> "),
        caption.paper,
        " It prints no numbers for this." if unprinted else "",
        "pair" if paper.empty or is_wide(result.png) else "pair beside",
        picture(scale, result),
        "" if paper.empty else printed_in_paper(caption, paper),
        ours(scale, result),
        provenance(result),
    )


def printed_in_paper(caption: Caption, paper: pd.DataFrame) -> Html:
    """The paper's numbers in a table of their own."""
    notes = join(html("<p class='note'>{}</p>", note) for note in paper_notes(caption, paper))
    title = f"Printed in the paper: {paper.metric.iloc[0]}, {', '.join(paper.model.unique())}"
    return html("<div>{}{}</div>", table(title, *paper_rows(caption, paper)), notes)


def ours(scale: str, result: Result) -> Html:
    """The numbers of <figure>.json: accuracy and controls in full, other lists of records folded away."""
    parts, numbers = [], result.numbers
    if result.png is not None and not numbers:
        parts.append(html("<p class='missing'>The numbers of this picture are missing (no {}).</p>", *result.missing))
    if "test_exact" in numbers:
        parts.append(table(f"Ours at {scale} scale, test rows", *our_rows(result)))
    if "overall" in numbers:
        said = "; ".join(f"N = {r['n_passes']}: {difference(r)}" for r in numbers["overall"])
        parts.append(html("<p class='note'>All answers together, points from the smallest N: {}.</p>", said))
    if "controls" in numbers:
        parts.append(table(f"Ours at {scale} scale, mean over seeds", *control_rows(numbers["controls"])))
    for name, records in numbers.items():
        known = name in ("test_exact", "difference", "overall", "controls")
        if not known and isinstance(records, list) and records and isinstance(records[0], dict):
            title = f"Ours at {scale} scale: {name.replace('_', ' ')}"
            numbers_of = table(title, *plain_rows(records))
            parts.append(html("<details><summary>All numbers of the picture</summary>{}</details>", numbers_of))
    return join(parts)


def reading() -> Html:
    """What the columns of the tables mean."""
    entries = join(html("<dt>{}</dt><dd>{}</dd>", *entry) for entry in READING)
    return html(
        "<section class='figure' id='reading' aria-label='Reading the numbers'><h2>Reading the numbers</h2>"
        "<dl>{}</dl></section>",
        entries,
    )


def made_with(results: Sequence[Result]) -> Html:
    """What every figure was made with, as its runs recorded it."""
    rows = [
        (result.caption.name, result.meta.get("runs", "–"), seeds(result), tokens(result), *recorded(result))
        for result in results
        if result.has_runs
    ]
    header = ("figure", "runs", "seeds", "tokens a run", "hardware", "torch", "commit")
    return html(
        "<section class='figure' id='made-with' aria-label='Made with'><h2>Made with</h2>{}<p class='note'>A + after a "
        "commit: the code or the configurations differed from it when the run began. Controls and ablations use the "
        "runs of the figures that they name.</p></section>",
        table("As the training runs recorded it", header, rows),
    )


def provenance(result: Result) -> Html:
    """One line under each figure that has a table of its own."""
    if not result.has_runs:
        return Html("")
    runs = f"seed{'s' * (len(result.seeds) > 1)} {seeds(result)}; {tokens(result)} training tokens a run; "
    return html(
        "<p class='note'>Made with {}hardware: {}; torch {}; commit {}.</p>",
        "" if result.caption.measured else runs,
        *recorded(result),
    )


def recorded(result: Result) -> tuple[str, str, str]:
    """Hardware, torch version and short commit of the runs, or that they were not recorded."""
    commits = [value[:10] + "+" * value.endswith("+") for value in result.meta.get("commit", [])]
    hardware, torch = (result.meta.get(key, []) for key in ("hardware", "torch"))
    lists = [", ".join(values) or "not recorded" for values in (hardware, torch, commits)]
    return lists[0], lists[1], lists[2]


def seeds(result: Result) -> str:
    """The seeds of the runs; a dash where there are none."""
    return ", ".join(map(str, result.seeds)) or "–"


def tokens(result: Result) -> str:
    """3.33M, or from the smallest to the largest where runs differ."""
    ends = dict.fromkeys(result.tokens[:1] + result.tokens[-1:])
    return " to ".join(readable(float(f"{n:.3g}")) for n in ends) or "–"
