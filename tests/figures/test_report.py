"""The page from results written out here: well formed, alone, and with the verdict that the intervals give."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from lmsleep.figures.plots.ours import ablations, arms, controls
from lmsleep.figures.report import main
from lmsleep.figures.results import CAPTIONS
from lmsleep.figures.table import COLUMNS

PAPER_VALUES = Path(__file__).parents[2] / "docs" / "paper_values.csv"
MINI = [caption for caption in CAPTIONS.values() if "mini" in caption.scales]
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


def test_the_page_is_well_formed_and_its_anchors_lead_somewhere(write_report):
    page = Page(write_report())
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    inside = [href[1:] for href in page.attributes("href") if href.startswith("#")]
    assert set(inside) <= set(ids)
    assert {caption.name for caption in MINI} <= set(inside)
    assert [tag for tag, _ in page.elements].count("h1") == 1


def test_the_page_loads_nothing(write_report):
    text = write_report()
    page = Page(text)
    assert not [tag for tag, _ in page.elements if tag in ("script", "iframe", "object", "embed", "video", "audio")]
    assert page.attributes("src") == []
    for tag, attrs in page.elements:
        assert not {"srcset", "onload", "onclick"} & set(attrs)
        if tag != "a" and "href" in attrs:
            assert attrs["href"].startswith(("data:", "#"))
    assert not re.search(r"url\((?!#)|@import|@font-face", text)


def test_every_picture_says_what_it_shows(write_report):
    said = [attrs["aria-label"] for tag, attrs in Page(write_report()).elements if attrs.get("role") == "img"]
    steps, pictures = said[:5], said[5:]
    assert steps[0] == "Wake, overflow, sleep, eviction" and len(pictures) == 3
    assert all(len(label) > 40 for label in said[1:])
    assert "N = 4: 90 %" in pictures[0]


def test_pictures_take_the_colours_of_the_theme_and_keep_their_names_apart(write_report):
    text = write_report("mini", "gpu")
    picture = re.search(r"<svg viewBox='0 0 64 40'.*?</svg>", text, flags=re.S).group()
    assert "fill: var(--card)" in picture and "stroke: currentColor" in picture
    assert 'xlink:href="#mini-fig2b-N"' in picture and 'clip-path="url(#mini-fig2b-p1)"' in picture
    assert "<style" not in picture and "metadata" not in picture
    ids = Page(text).attributes("id")
    assert len(set(ids)) == len(ids) and "gpu-controls-N" in ids
    for name in re.findall(r"var\(--([\w-]+)\)", text):
        assert len(re.findall(rf"--{name}:", text)) == 2, f"{name} is to be said for light and for dark"


def test_scales_stand_beside_each_other_each_with_its_verdict(write_report):
    text = write_report("mini", "gpu")
    section = Page(text).section(text, "fig2b")
    assert [section.count(f"Ours at {scale} scale</h3>") for scale in ("mini", "gpu")] == [1, 1]
    glance = re.search(r"<section id='glance'.*?</section>", text, flags=re.S).group()
    row = re.search(r"<tr><td><a href='#fig2b'>.*?</tr>", glance, flags=re.S).group()
    assert row.count("same direction</strong>") == 2


def test_every_table_scrolls_inside_its_own_box_and_is_named(write_report):
    text = write_report()
    named = re.findall(r"<p class='title'>(.+?)</p><div class='scroll' [^>]*aria-label='\1' [^>]*><table ", text)
    assert text.count("<table") == len(named) == text.count("</table><p class='more'>Scroll the table sideways") > 5


def test_missing_figures_are_said_to_be_missing(write_report):
    text = write_report()
    for caption in MINI:
        section = Page(text).section(text, caption.name)
        assert ("Not among the results of mini scale" in section) == (
            caption.name not in ("fig2b", "fig4a", "controls")
        ), caption.name
    assert "(no fig6.svg and no fig6.csv)" in text
    assert "id='probe'" not in text  # which a scale may leave out


def test_a_figure_that_was_not_run_is_said_to_be_missing_once(write_report, results):
    (results / "verdicts.yaml").write_text("fig5: {verdict: not run, sentence: It was never loaded.}\n")
    text = write_report("paper")
    section = Page(text).section(text, "fig5")
    assert "It was never loaded." in section and "Not among the results" not in section


def test_counts_and_tokens_are_written_for_people(write_report, results):
    record = {"n_passes": 2, "value": 0.5, "low": 0.4, "high": 0.6, "n": 3, "answers": 4096}
    overall = [record | {"base": 1, "tokens": 40_140_800}]
    (results / "fig2b.json").write_text(json.dumps({"test_exact": [record], "overall": overall}))
    section = Page(write_report()).section(write_report(), "fig2b")
    assert "<td>4,096</td>" in section and "N = 2 at 40.1M tokens: " in section


def test_a_long_first_column_may_break_on_a_phone_and_the_others_not(write_report, results):
    arm = {"arm": "n1", "title": "no gradient between passes", "question": "What if?", "against": "n4", "exact": 0.25}
    arm |= {"value": -0.5, "low": -0.625, "high": -0.375, "n": 3, "verdict": "hurts"}
    (results / "probe.json").write_text(json.dumps({"verdicts": [arm]}))
    text = write_report("gpu")
    assert "<td class='long'>no gradient between passes</td>" in text
    assert min(map(len, re.findall(r"<td class='long'>(.*?)</td>", text))) > 16


def test_a_verdict_on_an_arm_is_in_the_tables_of_its_figure(write_report, results):
    arm = {"arm": "n1", "title": "no sleep", "question": "What if nothing sleeps?", "against": "n4", "exact": 0.25}
    arm |= {"value": -0.5, "low": -0.625, "high": -0.375, "n": 3, "verdict": "hurts"}
    (results / "probe.json").write_text(json.dumps({"verdicts": [arm]}))
    text = write_report("gpu")
    section = Page(text).section(text, "probe")
    for cell in ("no sleep", "n4", "25.0 %", "-50.0 (-62.5 to -37.5)", "3", "hurts"):
        assert f"<td>{cell}</td>" in section
    assert "Made with seed" not in section, "the runs are those of other figures"


def test_what_every_figure_with_arms_gives_has_a_place_on_the_page(write_report, results, monkeypatch):
    monkeypatch.chdir(PAPER_VALUES.parents[1])
    rows = [
        (figure, model, n, 0, "all", 20, metric, 0.5)
        for figure, runs in (("arms", {"n4": 4, "n1": 1, "reset": 4}), ("fig2b", {"AG": 4}))
        for model, n in runs.items()
        for metric in ("test_exact", "cut_exact", "test_n1_exact", "val_exact")
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table = pd.concat([table, table[table.metric == "val_exact"].assign(slice="12")])
    (results / "baselines.json").write_text('{"majority": {"12": 0.1}}')
    for name, draw in (("arms", arms), ("controls", controls), ("ablations", ablations)):
        (results / f"{name}.json").write_text(json.dumps(draw(table, results, "gpu")[1]))
    text = write_report("gpu")
    section = {name: Page(text).section(text, name) for name in ("arms", "controls", "ablations")}
    assert "no sleep, N = 1" in section["controls"]
    assert "undecided" in section["ablations"]
    assert "missing (no arms.json)" not in section["arms"]


def test_two_seeds_are_shown_by_their_scores(write_report, results):
    record = {"n_passes": 1, "value": 0.5, "low": None, "high": None, "n": 2, "answers": 9, "scores": [0.25, 0.75]}
    of_more = record | {"n_passes": 4, "low": 0.4, "high": 0.6, "n": 3}
    of_more.pop("scores")
    for records, title in (
        ([record], "scores of both seeds"),
        ([record, of_more], "95 % interval over seeds; of two seeds the scores"),
        ([of_more], "95 % interval over seeds"),
    ):
        (results / "fig2b.json").write_text(json.dumps({"test_exact": records, "overall": []}))
        section = Page(write_report()).section(write_report(), "fig2b")
        assert ("<td>25.0 %, 75.0 %</td>" in section) == (record in records)
        assert f"<th scope='col'>{title}</th>" in section


def test_what_was_scored_is_named(write_report):
    """Rule 110 scores rows, which have four answers; the other tasks answers."""
    text = write_report()
    page = Page(text)
    for name, counted in (("fig2b", "rows"), ("fig4a", "answers")):
        section = page.section(text, name)
        assert re.findall(r"<th scope='col'>(\w+) of all seeds</th>", section) == [counted]


def test_a_picture_without_numbers_is_shown_and_says_so(write_report, results):
    (results / "fig2b.json").unlink()
    section = Page(write_report()).section(write_report(), "fig2b")
    assert "role='img'" in section
    assert "The numbers of this picture are missing (no fig2b.json)" in section


def test_the_paper_and_ours_never_share_a_table(write_report):
    text = write_report()
    section = Page(text).section(text, "fig2b")
    printed, ours = re.findall(r"<table .*?</table>", section, flags=re.S)
    assert re.findall(r"<td>([^<]*%)</td>", printed) == ["about 10 %", "about 20 %", "&gt; 30 %", "&gt; 30 %"]
    assert re.findall(r"<td>([^<]*%)</td>", ours) == [
        *("50.0 %", "40.0 to 60.0 %", "45.0 to 55.0 %"),
        *("90.0 %", "85.0 to 95.0 %", "87.0 to 93.0 %"),
    ]
    assert "+40.0 (+31.0 to +49.0)" in ours


def test_values_whose_n_is_not_known_are_shown_as_such(write_report):
    text = write_report()
    printed = re.findall(r"<table .*?</table>", Page(text).section(text, "fig4a"), flags=re.S)[0]
    unknown = re.search(r"<tr><td>N not known</td>(.*?)</tr>", printed).group(1)
    cells = re.findall(r"<td>(.*?)</td>", unknown)
    assert cells[0] == "98.5 % · 98.5 % · 98.0 % · 97.9 %"
    assert cells[2:] == ["79.9 % · 75.3 %", "37.2 % · 37.0 %"]
    note = "2 operations; 4 operations; 6 operations; 8 operations: which N is not recoverable."
    assert note in Page(text).section(text, "fig4a")
    assert "N = 1, t = 32: after nearly 5 B tokens; called near random." in Page(text).section(text, "fig2b")


def test_seeds_tokens_hardware_and_commit_come_from_the_run_and_are_escaped(write_report):
    text = write_report()
    said = " ".join(Page(Page(text).section(text, "fig2b")).texts)
    assert "seeds 0, 1, 2; 3.33M training tokens a run" in said
    assert "hardware: x86_64 CPU, <2> cores; torch 2.13.0; commit 0123456789+" in said


def test_untested_runs_count_up_to_their_last_validation(write_report, results):
    rows = ["figure,model,n_passes,seed,slice,tokens,metric,value"]
    rows += [f"fig2b,AG,{n},7,5,{tokens},val_exact,0.5" for n in (1, 4) for tokens in (1000, 2000 * n)]
    (results / "fig2b.csv").write_text("\n".join(rows) + "\n")
    text = write_report()
    said = " ".join(Page(Page(text).section(text, "fig2b")).texts)
    assert "seed 7; 2k to 8k training tokens a run" in said


def test_runs_without_a_test_count_beside_those_with_one(write_report, results):
    rows = ["figure,model,n_passes,seed,slice,tokens,metric,value"]
    rows += [f"fig2b,AG,{n},7,5,{tokens},val_exact,0.5" for n in (1, 4) for tokens in (1000, 2000 * n)]
    (results / "fig2b.csv").write_text("\n".join([*rows, "fig2b,AG,1,7,5,9000,test_exact,0.5"]) + "\n")
    text = write_report()
    said = " ".join(Page(Page(text).section(text, "fig2b")).texts)
    assert "seed 7; 8k to 9k training tokens a run" in said


def test_rows_of_other_figures_are_no_runs_of_their_own(write_report, results):
    without = write_report()
    for name in ("controls", "ablations"):
        (results / f"{name}.csv").write_text((results / "fig2b.csv").read_text())
    assert write_report() == without


def test_what_no_run_recorded_is_not_invented(write_report, results):
    (results / "fig2b.meta.json").unlink()
    text = write_report()
    assert "hardware: not recorded; torch not recorded; commit not recorded" in Page(text).section(text, "fig2b")


def test_other_numbers_of_a_picture_are_folded_away(write_report, results):
    records = [{"figure": "fig2b", "n_passes": 4, "at_test": 2, "value": 0.12345}]
    (results / "ablations.json").write_text(json.dumps({"passes_at_test": records, "unit": "share"}))
    (results / "fig2b.svg").rename(results / "ablations.svg")
    text = write_report()
    folded = re.search(r"<details>.*</details>", Page(text).section(text, "ablations"), flags=re.S).group()
    assert re.findall(r"<th [^>]*>(.*?)</th>", folded) == ["figure", "N", "at test", "value"]
    assert re.findall(r"<td>(.*?)</td>", folded) == ["fig2b", "4", "2", "0.1235"]


@pytest.mark.parametrize(("scale", "said"), [("mini", ["fig2b"]), ("smoke", [])])
def test_a_figure_with_more_seeds_elsewhere_says_so_at_mini_scale(write_report, results, scale, said):
    (results.parent / "site/seeds").mkdir(parents=True)
    (results.parent / "site/seeds/fig2b.csv").touch()
    text = write_report(scale)
    page = Page(text)
    assert [c.name for c in MINI if "results/seeds" in page.section(text, c.name)] == said


def test_measurements_are_read_from_their_table(write_report, results):
    rows = ["figure,model,n_passes,seed,slice,tokens,metric,value"]
    rows += [
        "latency,hybrid,1,0,3,192,p50_ms,1.5",
        "latency,hybrid,1,0,3,192,bytes,65536.0",
        "latency,twin,1,0,3,192,p50_ms,2.5",
    ]
    (results / "latency.csv").write_text("\n".join(rows) + "\n")
    (results / "fig2b.svg").rename(results / "latency.svg")
    text = write_report()
    section = Page(text).section(text, "latency")
    assert re.findall(r"<td>(.*?)</td>", section) == [
        "hybrid",
        "1",
        "3",
        "192",
        "65,536",
        "1.5",
        "twin",
        "1",
        "3",
        "192",
        "–",
        "2.5",
    ]
    assert "Made with hardware: not recorded; torch not recorded; commit not recorded." in section


@pytest.mark.parametrize(("seconds", "said"), [(4536, "1.26"), (18, "0.01"), (17, "&lt; 0.01")])
def test_runs_of_half_a_minute_are_not_called_none(write_report, results, seconds, said):
    meta = json.loads((results / "fig2b.meta.json").read_text()) | {"seconds": seconds}
    (results / "fig2b.meta.json").write_text(json.dumps(meta))
    text = write_report()
    assert f"<td>6</td><td>{said}</td>" in re.sub(r"\s*\n\s*", "", text)


def test_the_same_results_give_the_same_bytes(write_report):
    assert write_report() == write_report()


def test_a_folder_that_is_none_is_refused_and_nothing_is_written(tmp_path):
    out = tmp_path / "report.html"
    with pytest.raises(ValueError, match="results must be a folder"):
        main(["mini"], tmp_path, out, PAPER_VALUES)
    assert not out.exists()


def test_the_papers_relative_gains_follow_from_its_accuracies():
    table = pd.read_csv(PAPER_VALUES)
    assert set(table.figure) <= CAPTIONS.keys()
    accuracy = (
        table[table.metric == "accuracy"].dropna(subset="n_passes").set_index(["figure", "slice", "n_passes"]).value
    )
    gains = table[table.metric == "relative gain"]
    assert len(gains) == 8
    for gain in gains.itertuples():
        ratio = accuracy[gain.figure, gain.slice, gain.n_passes] / accuracy[gain.figure, gain.slice, 1]
        assert ratio - 1 == pytest.approx(gain.value, abs=0.0051)
