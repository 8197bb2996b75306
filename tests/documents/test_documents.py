"""The numbers of README.md and results/ against their tables, the headlines worked out with scipy alone."""

import csv
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from tests.documents.__main__ import documents, main
from tests.documents.document import Document, faults, markdown, renewed
from tests.documents.scores import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def held():
    """What each page must hold, by its path; seconds of work."""
    return {document.path: document for document in documents(ROOT)}


def test_every_number_follows_from_a_table(held):
    wrong = [fault for path, page in held.items() for fault in faults(page, (ROOT / path).read_text())]
    remedy = "`python -m tests.documents --write` makes the numbers of the pages those of results/"
    if wrong and results_changed():
        pytest.skip(f"results/ is not that of the last commit, as after `make repro`: {remedy}")
    assert wrong == [], remedy


def results_changed(root=ROOT):
    """Whether results/ has other tables than the last commit; False where that is not known."""
    diff = ["git", "diff", "--quiet", "HEAD", "--", "results/*.csv", "results/*.json"]
    return subprocess.run(diff, cwd=root, stderr=subprocess.DEVNULL).returncode == 1


def test_results_of_a_run_of_ones_own_are_told_from_those_of_the_last_commit(tmp_path):
    table = tmp_path / "results/mini/fig4a.meta.json"
    table.parent.mkdir(parents=True)
    table.write_text('{"seconds": 109}')
    assert not results_changed(tmp_path), "nothing is known without git"
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "results"], [*who, "commit", "-qm", "Measure"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert not results_changed(tmp_path)
    table.write_text('{"seconds": 229}')
    assert results_changed(tmp_path)


def test_every_page_with_results_is_held(held):
    pages = [ROOT / "README.md", ROOT / "results/README.md", *ROOT.glob("results/*/README.md")]
    assert {str(path.relative_to(ROOT)) for path in pages} <= held.keys()


def rows(path, **where):
    """The rows of a CSV, as text."""
    with (ROOT / path).open() as file:
        return [r for r in csv.DictReader(file) if all(r[k] == v for k, v in where.items())]


def paired(table, n, base="1"):
    """{n - base} by seed, and the t interval of its mean, in points."""
    value = {(r["n_passes"], r["seed"]): float(r["value"]) for r in table}
    apart = [value[n, s] - value[base, s] for m, s in value if m == n and (base, s) in value]
    low, high = stats.t.interval(0.95, len(apart) - 1, loc=np.mean(apart), scale=stats.sem(apart))
    return f"{100 * np.mean(apart):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def overview():
    return " ".join((ROOT / "results/README.md").read_text().split())


def test_the_headline_of_rule_110_is_that_of_all_seeds():
    table = rows("results/seeds/fig2b.csv", metric="test_exact")
    seeds = len({r["seed"] for r in table})
    means = [f"{100 * np.mean([float(r['value']) for r in table if r['n_passes'] == n]):.1f}" for n in "124"]
    assert f"[all {seeds} seeds](seeds/README.md) answer {means[0]}, {means[1]} and {means[2]} %" in overview()
    assert f"**N = 2 is {paired(table, '2')} points above N = 1**" in overview()


def test_the_readme_s_figure_is_told_as_its_test_rows_say():
    table = rows("results/gpu/fig2b.csv", metric="test_exact", slice="12")
    means = [f"{100 * np.mean([float(r['value']) for r in table if r['n_passes'] == n]):.1f}" for n in "1234"]
    page = " ".join((ROOT / "README.md").read_text().split())
    assert f"right in {means[0]} % of test rows, with N = 2, 3 and 4 in {means[1]}, {means[2]} and {means[3]} %" in page
    value = {(r["n_passes"], r["seed"]): float(r["value"]) for r in table}
    apart = [value["4", seed] - value["1", seed] for n, seed in value if n == "4"]
    assert stats.ttest_1samp(apart, 0).pvalue < 0.05 and "answers more steps | same direction |" in page


@pytest.mark.parametrize("arm", ["steps4", "deep16", "embed", "reset"])
def test_an_arm_against_all_runs_with_n_4_is_welch_s_test_of_the_two(arm):
    ours = [float(r["exact"]) for r in rows("results/gpu/arms_earlier.csv", model=arm)]
    ten, again = (
        [float(r["value"]) for r in rows(f"results/gpu/{name}.csv", metric="test_exact", slice="12", **where)]
        for name, where in (("fig2b", {"n_passes": "4"}), ("arms", {"model": arm}))
    )
    test = stats.ttest_ind(ours, ten, equal_var=False)
    low, high = (100 * end for end in test.confidence_interval(0.95))
    apart = f"{100 * (np.mean(ours) - np.mean(ten)):+.1f} ({low:+.1f} to {high:+.1f})"
    p = "below 0.001" if 20 * test.pvalue < 0.001 else f"{min(1, 20 * test.pvalue):.1g}"
    page = (ROOT / "results/gpu/README.md").read_text()
    row = f"| `{arm}` | {100 * np.mean(ours):.1f} % | {apart} | {p} | {100 * np.mean(again[:3]):.1f} % | "
    assert f"{row}{100 * np.mean(again):.1f} % |" in page


def gpu_runs(name, **where):
    return rows(f"results/gpu/{name}.csv", metric="test_exact", slice="12", **where)


@pytest.mark.parametrize("arm", ["steps4", "deep16", "reset"])
def test_an_arm_against_n_4_over_all_runs_averages_the_runs_of_a_seed_first(arm):
    """As figure 2b's own runs are taken together, whichever way the arm comes out."""
    runs = [
        r | {"exact": r["value"], "side": "4"} for r in gpu_runs("fig2b", n_passes="4") + gpu_runs("arms", model="n4")
    ]
    runs += [r | {"exact": r["value"], "side": "1"} for r in gpu_runs("arms", model=arm)]
    runs += [r | {"side": "1"} for r in rows("results/gpu/arms_earlier.csv", model=arm)]
    averaged = []
    for side, seed in {(r["side"], r["seed"]) for r in runs}:
        value = np.mean([float(r["exact"]) for r in runs if (r["side"], r["seed"]) == (side, seed)])
        averaged.append({"n_passes": side, "seed": seed, "value": value})
    page = " ".join((ROOT / "results/gpu/README.md").read_text().split())
    assert re.search(rf"\| `{arm}` \|[^`]*% \| {re.escape(paired(averaged, '1', '4'))} \|", page)


def test_the_readme_says_where_n_1_differs_in_its_warm_up_too():
    settings = yaml.safe_load((ROOT / "configs/experiment/gpu/gsm_sliding.yaml").read_text())
    (stage,) = settings["trainer"]["callbacks"]
    differ = settings["sleep"]["eviction"] == "sliding" and stage["init_args"]["eviction"] is None
    assert differ == ("| same direction, warm-ups differ |" in (ROOT / "README.md").read_text())


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_the_headline_at_t_12_is_of_the_seeds_fixed_before_and_then_of_all_runs_of_a_seed():
    six = rows("results/paper/rule110_t12.csv", metric="val_exact", slice="12", tokens="60006400")
    three = rows("results/paper/other_runs.csv", set="first set", tokens="60006400")
    assert {r["seed"] for r in three} == {"0", "1", "2"}
    averaged = []
    for run in (r for r in six if r["n_passes"] in "12"):
        again = [r for r in three if (r["n_passes"], r["seed"]) == (run["n_passes"], run["seed"])]
        averaged.append(run | {"value": np.mean([float(r["value"]) for r in (run, *again)])})
    assert f"**N = 2 is {paired(six, '2')} points above N = 1** over the six seeds fixed before" in overview()
    assert f"with three earlier runs averaged in, {paired(averaged, '2')}" in overview()


def test_a_run_leaves_the_majority_line_where_it_stays_above():
    table, line = rows("results/paper/fig2b_part.csv", metric="val_exact", slice="32"), 0.0995175
    leaves = {}
    for n in "1234":
        run = sorted((int(r["tokens"]), float(r["value"])) for r in table if r["n_passes"] == n)
        leaves[n] = next(t for i, (t, _) in enumerate(run) if all(value > line for _, value in run[i:]))
    page = " ".join((ROOT / "results/paper/README.md").read_text().split())
    *first, last = (f"{tokens / 1e6:.0f}" for tokens in leaves.values())
    assert f"{', '.join(first)} and {last} M tokens for N = 1, 2, 3 and 4" in page


def test_the_end_of_figure_2b_is_that_of_its_test_rows_on_every_page():
    table = rows("results/paper/fig2b.csv", metric="test_exact", slice="32")
    assert {r["tokens"] for r in table} == {"5000038400"}  # 97,657 steps of 512 rows of 100 tokens
    *first, last = (f"{100 * float(r['value']):.1f}" for r in sorted(table, key=lambda r: r["n_passes"]))
    told = f"{', '.join(first)} and {last} %"
    for page in ("README.md", "results/README.md", "results/paper/README.md", "results/paper/verdicts.yaml"):
        assert f"at {told}" in " ".join((ROOT / page).read_text().split()), page


@pytest.fixture
def repository(tmp_path):
    """A copy of what the pages need."""
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("*.svg", "*.png", "*.html"))
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/paper_values.csv", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_pages_follow_their_tables_when_these_change(repository, monkeypatch):
    monkeypatch.setattr("tests.documents.__main__.documents", cache(documents))
    table = repository / "results/seeds/fig2b.csv"
    text = re.sub(r"^(fig2b,AG,2,\d+,4,\d+,test_exact),.*", r"\1,0.9", table.read_text(), flags=re.M)
    table.write_text(text)
    read.cache_clear()
    with pytest.raises(SystemExit, match=r"README.md: it does not say: \[all \d+ seeds.*, 90.0 and"):
        main(repository)
    main(repository, write=True)
    assert ", 90.0 and" in (repository / "results/README.md").read_text()
    assert "| 2 | 90.0 % |" in (repository / "results/seeds/README.md").read_text()


def test_a_cell_without_a_value_is_empty_in_markdown():
    table = pd.DataFrame([{"N": 1, "right": "5.0 %"}, {"N": 4, "right": "9.0 %", "points": "+4.0"}])
    assert markdown(table) == "| N | right | points |\n|---|---|---|\n| 1 | 5.0 % | |\n| 4 | 9.0 % | +4.0 |\n"


TEXT = """\
Scale 2 B, torch 2.13. With N = 2 it
answers 12.5 % of rows; the difference, +1.5 (-2.0
to +3.0), lies around zero.
<!-- table: means -->
| N | share |
| 1 | 10.0 % |
<!-- end -->
`--rate 1.5` and [a link](x/1.5.md).
"""
SENTENCE = "N = 2 it answers 12.5 % of rows; the difference, +1.5 (-2.0 to +3.0), lies around zero"
OLD = Document("x.md", {"means": "| N | share |\n| 1 | 10.0 % |\n"}, (SENTENCE,), (r"2 B", r"torch \d\.\d+"))


def test_a_text_whose_numbers_are_owned_has_no_faults():
    assert faults(OLD, TEXT) == []


@pytest.mark.parametrize(
    "number", ["37.5 %", "40, 50 and 60 %", "+7", "± 3", "-4.5", "7.5", "600 M", "9 points", "20 ms"]
)
def test_a_number_that_nothing_owns_is_found(number):
    assert faults(OLD, TEXT.replace("torch", f"new {number}, torch")) == [f"x.md: line 1: nothing owns {number!r}"]


@pytest.mark.parametrize("setting", ["batches of 512", "N = 4", "seeds 0 to 9", "Muon 2e-3", "t-12"])
def test_settings_need_no_owner(setting):
    assert faults(OLD, TEXT.replace("torch", f"{setting}, torch")) == []


def test_a_sentence_with_another_number_is_a_fault_and_so_is_the_number():
    assert faults(OLD, TEXT.replace("12.5", "12.6"))[0] == f"x.md: it does not say: {SENTENCE}"
    assert any("'12.6 %'" in fault for fault in faults(OLD, TEXT.replace("12.5", "12.6")))


def test_a_table_that_is_old_or_lacking_is_a_fault():
    fault = "x.md: table means is not there, or not as its data say"
    assert fault in faults(OLD, TEXT.replace("10.0", "10.1"))
    assert fault in faults(OLD, TEXT.replace("<!-- table: means -->\n", ""))


def test_numbers_are_renewed_and_line_breaks_stay():
    sentence = "N = 2 it answers 50.0 % of rows; the difference, +9.5 (+2.0 to +13.0), lies above zero"
    new = Document("x.md", {"means": "| N | share |\n| 1 | 40.0 % |\n"}, (sentence,), OLD.own)
    text = renewed(new, TEXT)
    assert text == TEXT.replace("12.5", "50.0").replace("+1.5 (-2.0", "+9.5 (+2.0").replace("+3.0", "+13.0").replace(
        "around", "above"
    ).replace("10.0 %", "40.0 %")  # fmt: skip
    assert faults(new, text) == []


@pytest.mark.parametrize("sentence", ["N = 4 it answers 50.0 % of rows", "N = 2 it answers 50.0 % of runs"])
def test_a_sentence_with_other_words_or_of_another_setting_is_left_for_a_person(sentence):
    new = Document("x.md", {}, (sentence,))
    assert renewed(new, TEXT) == TEXT
    assert f"x.md: it does not say: {sentence}" in faults(new, TEXT)


def test_an_empty_table_is_filled_and_the_text_behind_it_stays():
    text = "<!-- table: means -->\n<!-- end -->\nBetween.\n<!-- table: other -->\n| x |\n<!-- end -->\n"
    text = renewed(Document("x.md", {"means": "| a |\n"}), text)
    assert text == "<!-- table: means -->\n| a |\n<!-- end -->\nBetween.\n<!-- table: other -->\n| x |\n<!-- end -->\n"
