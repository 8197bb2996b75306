"""The page from results written out here: well formed, alone, and with the verdict that the intervals give."""

import json
import math
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from lmsleep.pipeline.report.__main__ import main
from lmsleep.pipeline.report.captions import CAPTIONS
from lmsleep.pipeline.report.results import OPPOSITE, SAME, UNDECIDED, direction, load, signed

PAPER_VALUES = Path(__file__).parents[2] / "docs" / "paper_values.csv"
VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """A page taken apart; fails where an element is closed that is not the one that is open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]

    def section(self, text, name):
        return re.search(rf"<section class='figure' id='{name}'.*?</section>", text, flags=re.S).group()


def png(width, height):
    """A white picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xff" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def record(n_passes, value, low=None, high=None, **more):
    return {"n_passes": n_passes, "value": value, "low": low, "high": high, "n": 1 if low is None else 3} | more


FIG2B = {
    "test_exact": [
        record(1, 0.5, 0.4, 0.6, wilson_low=0.45, wilson_high=0.55, answers=300),
        record(4, 0.9, 0.85, 0.95, wilson_low=0.87, wilson_high=0.93, answers=300),
    ],
    "difference": [record(4, 0.4, 0.31, 0.49, base=1)],
    "overall": [record(2, -0.2, -0.3, -0.1, base=1), record(4, 0.4, 0.31, 0.49, base=1)],
}


@pytest.fixture
def results(tmp_path):
    """Figure 2b with everything, figure 4a with one seed and a wide picture, controls; the others missing."""
    folder = tmp_path / "results"
    folder.mkdir()
    by_op = [record(n, 0.5, slice=op, wilson_low=0.4, wilson_high=0.6, answers=90) for op in (1, 10) for n in (1, 4)]
    fig4a = {
        "test_exact": by_op,
        "difference": [record(4, 0.0, base=1, slice=op) for op in (1, 10)],
        "overall": [record(4, 0.1, base=1)],
    }
    controls = {
        "controls": [
            {"figure": "fig2b", "n_passes": n, "metric": metric, "value": value}
            for n in (1, 4)
            for metric, value in (("test_exact", 0.75), ("cut_exact", 0.125))
        ]
    }
    for name, numbers, size in (("fig2b", FIG2B, (64, 40)), ("fig4a", fig4a, (90, 30)), ("controls", controls, (9, 9))):
        (folder / f"{name}.json").write_text(json.dumps(numbers))
        (folder / f"{name}.png").write_bytes(png(*size))
    rows = ["figure,model,n_passes,seed,slice,tokens,metric,value"]
    rows += [f"fig2b,AG,{n},{seed},5,3328000,test_exact,0.5" for n in (1, 4) for seed in (0, 1, 2)]
    (folder / "fig2b.csv").write_text("\n".join(rows) + "\n")
    meta = {"runs": 6, "hardware": ["x86_64 CPU, <2> cores"], "torch": ["2.13.0"], "commit": ["0123456789abcdef+"]}
    (folder / "fig2b.meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture
def write(tmp_path, results):
    """write(scale): the text of the page."""

    def write(scale="mini"):
        out = tmp_path / "out" / "report.html"
        arguments = ["--scale", scale, "--results", str(results), "--paper", str(PAPER_VALUES), "--out", str(out)]
        main(arguments)
        return out.read_text(encoding="utf-8")

    return write


def test_the_page_is_well_formed_and_its_anchors_lead_somewhere(write):
    page = Page(write())
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    inside = [href[1:] for href in page.attributes("href") if href.startswith("#")]
    assert set(inside) <= set(ids)
    assert {caption.name for caption in CAPTIONS} <= set(inside)
    assert [tag for tag, _ in page.elements].count("h1") == 1


def test_the_page_loads_nothing(write):
    text = write()
    page = Page(text)
    assert not [tag for tag, _ in page.elements if tag in ("script", "iframe", "object", "embed", "video", "audio")]
    assert all(source.startswith("data:image/png;base64,") for source in page.attributes("src"))
    for tag, attrs in page.elements:
        assert not {"srcset", "style", "onload", "onclick"} & set(attrs)
        if tag != "a" and "href" in attrs:
            assert attrs["href"].startswith("data:")
    assert not re.search(r"url\(|@import|@font-face", text)


def test_every_picture_says_what_it_shows(write):
    page = Page(write())
    pictures = [attrs for tag, attrs in page.elements if tag == "img"]
    drawings = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert len(pictures) == 3
    assert len(drawings) == 4
    assert all(len(attrs["alt"]) > 40 for attrs in pictures)
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 40 for attrs in drawings)
    assert "N = 4: 90 %" in pictures[0]["alt"]
    assert (pictures[0]["width"], pictures[0]["height"]) == ("64", "40")


def test_every_table_scrolls_inside_its_own_box_and_is_named(write):
    text = write()
    assert text.count("<table>") == len(re.findall(r"<div class='scroll'[^>]*><table><caption>.", text)) > 5


def test_missing_figures_are_said_to_be_missing(write):
    text = write()
    for caption in CAPTIONS:
        section = Page(text).section(text, caption.name)
        assert ("Not among the results of mini scale" in section) == (
            caption.name not in ("fig2b", "fig4a", "controls")
        ), caption.name
    assert "(no fig6.png and no fig6.json)" in text


def test_a_picture_without_numbers_is_shown_and_says_so(write, results):
    (results / "fig2b.json").unlink()
    section = Page(write()).section(write(), "fig2b")
    assert "<img" in section
    assert "The numbers of this picture are missing (no fig2b.json)" in section


def test_the_paper_and_ours_never_share_a_table(write):
    text = write()
    section = Page(text).section(text, "fig2b")
    printed, ours = re.findall(r"<table>.*?</table>", section, flags=re.S)
    assert re.findall(r"<td>([^<]*%)</td>", printed) == ["about 10 %", "about 20 %", "&gt; 30 %", "&gt; 30 %"]
    assert re.findall(r"<td>([^<]*%)</td>", ours) == [
        *("50.0 %", "40.0 to 60.0 %", "45.0 to 55.0 %"),
        *("90.0 %", "85.0 to 95.0 %", "87.0 to 93.0 %"),
    ]
    assert "+40.0 [+31.0, +49.0]" in ours


def test_values_whose_n_is_not_known_are_shown_as_such(write):
    text = write()
    printed = re.findall(r"<table>.*?</table>", Page(text).section(text, "fig4a"), flags=re.S)[0]
    unknown = re.search(r"<tr><td>accuracy</td><td>not known</td>(.*?)</tr>", printed).group(1)
    cells = re.findall(r"<td>(.*?)</td>", unknown)
    assert cells[0] == "98.5 % · 98.5 % · 98 % · 97.9 %"
    assert cells[2:] == ["79.9 % · 75.3 %", "37.2 % · 37 %"]


def test_seeds_tokens_hardware_and_commit_come_from_the_run_and_are_escaped(write):
    text = write()
    said = " ".join(Page(Page(text).section(text, "fig2b")).texts)
    assert "seeds 0, 1, 2; 3.33M training tokens a run" in said
    assert "hardware: x86_64 CPU, <2> cores; torch 2.13.0; commit 0123456789+" in said


def test_what_no_run_recorded_is_not_invented(write, results):
    (results / "fig2b.meta.json").unlink()
    text = write()
    assert "hardware: not recorded; torch not recorded; commit not recorded" in Page(text).section(text, "fig2b")


def test_other_numbers_of_a_picture_are_folded_away(write, results):
    (results / "latency.json").write_text(json.dumps({"per_token": [{"context": 64, "ms": 0.12345}], "unit": "ms"}))
    (results / "latency.png").write_bytes(png(8, 8))
    text = write()
    section = Page(text).section(text, "latency")
    assert re.findall(r"<td>(.*?)</td>", re.search(r"<details>.*</details>", section).group()) == ["64", "0.1235"]


def test_the_same_results_give_the_same_bytes(write):
    assert write() == write()


@pytest.mark.parametrize(
    ("low", "high", "expected", "word"),
    [
        (0.01, 0.2, 1, SAME),
        (-0.2, -0.01, 1, OPPOSITE),
        (-0.01, 0.2, 1, UNDECIDED),
        (0.0, 0.2, 1, UNDECIDED),
        (-0.2, 0.0, 1, UNDECIDED),
        (0.0, 0.0, 1, UNDECIDED),
        (0.01, 0.2, -1, OPPOSITE),
        (-0.2, -0.01, -1, SAME),
        (-0.1, 0.1, -1, UNDECIDED),
        (None, None, 1, UNDECIDED),
        (math.nan, math.nan, 1, UNDECIDED),
    ],
)
def test_a_direction_is_decided_by_an_interval_on_one_side_of_zero(low, high, expected, word):
    assert direction(low, high, expected) == word


def verdicts(folder, scale="mini"):
    return {result.caption.name: result.verdict for result in load(folder, scale)}


def test_the_largest_n_decides(results):
    verdict = verdicts(results)["fig2b"]
    assert verdict.word == SAME  # N = 2 alone would be the opposite
    assert verdict.sentence == "N = 4 against N = 1: +40.0 [+31.0, +49.0] points of accuracy, paired over 3 seeds."


def test_one_seed_leaves_it_undecided(results):
    verdict = verdicts(results)["fig4a"]
    assert verdict.word == UNDECIDED
    assert "one seed" in verdict.sentence


def test_the_largest_t_decides_figure_2a_and_fewer_right_is_the_papers_direction(results):
    steps = [
        {"slice": t, "base": 2, "value": v, "low": v - 0.1, "high": v + 0.1, "n": 2} for t, v in ((10, -0.5), (4, 0.2))
    ]
    (results / "fig2a.json").write_text(json.dumps({"test_exact": [], "difference": steps}))
    verdict = verdicts(results)["fig2a"]
    assert verdict.word == SAME
    assert verdict.sentence.startswith("t = 10 against t = 2: −50.0")


def test_controls_have_no_verdict(results):
    assert verdicts(results)["controls"] is None


def test_a_written_verdict_counts_at_paper_scale_alone(results, write):
    (results / "verdicts.yaml").write_text("fig2b: {verdict: not reached, sentence: Stopped at 0.1 B tokens.}\n")
    assert verdicts(results)["fig2b"].word == SAME
    verdict = verdicts(results, "paper")["fig2b"]
    assert (verdict.word, verdict.sentence) == ("not reached", "Stopped at 0.1 B tokens.")
    assert "Stopped at 0.1 B tokens." in write("paper")


def test_an_unknown_verdict_is_refused(results):
    (results / "verdicts.yaml").write_text("fig2b: {verdict: great, sentence: ''}\n")
    with pytest.raises(ValueError, match="verdict of fig2b must be one of agrees, disagrees, not reached, got 'great'"):
        load(results, "paper")


def test_a_folder_that_is_none_is_refused_and_nothing_is_written(tmp_path):
    out = tmp_path / "report.html"
    with pytest.raises(ValueError, match="results must be a folder"):
        main(["--scale", "mini", "--results", str(tmp_path / "no"), "--paper", str(PAPER_VALUES), "--out", str(out)])
    assert not out.exists()


@pytest.mark.parametrize(("share", "text"), [(0.1234, "+12.3"), (-0.05, "−5.0"), (0.0, "0.0"), (-0.0001, "0.0")])
def test_differences_are_signed_points(share, text):
    assert signed(share) == text


def test_the_papers_relative_gains_follow_from_its_accuracies():
    table = pd.read_csv(PAPER_VALUES)
    assert set(table.figure) <= {caption.name for caption in CAPTIONS}
    accuracy = (
        table[table.metric == "accuracy"].dropna(subset="n_passes").set_index(["figure", "slice", "n_passes"]).value
    )
    gains = table[table.metric == "relative gain over N = 1"]
    assert len(gains) == 8
    for gain in gains.itertuples():
        ratio = accuracy[gain.figure, gain.slice, gain.n_passes] / accuracy[gain.figure, gain.slice, 1]
        assert ratio - 1 == pytest.approx(gain.value, abs=0.0051)
