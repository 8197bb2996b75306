"""The committed results are what was measured: those of a stage as dvc.lock has them, the others as listed."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from lmsleep import tidy
from lmsleep.figures.draw import draw
from lmsleep.figures.stats import rounded

ROOT = Path(__file__).parents[2]
# Results that no stage here makes. `sha256sum results/{bench,gpu,paper,seeds}/*.{csv,json}` writes the list.
LISTED = Path(__file__).with_name("results.sha256")


def md5(path):
    """As DVC writes it: of a folder, that of the JSON list of its files."""
    if not path.is_dir():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = sorted((str(file.relative_to(path)), md5(file)) for file in path.rglob("*") if file.is_file())
    listed = json.dumps([{"md5": digest, "relpath": name} for name, digest in files])
    return hashlib.md5(listed.encode()).hexdigest() + ".dir"


def test_results_of_a_stage_are_those_of_the_lock():
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"].values()
    outs = [out for stage in stages for out in stage.get("outs", []) if out["path"].startswith("results/")]
    outs = [out for out in outs if not out["path"].endswith(".html")]  # the report is not in git
    assert len(outs) > 30
    assert [out["path"] for out in outs if md5(ROOT / out["path"]) != out["md5"]] == []


def test_other_results_are_those_that_are_listed():
    listed = dict(reversed(line.split()) for line in LISTED.read_text(encoding="utf-8").splitlines())
    files = [p for n in ("bench", "gpu", "paper", "seeds") for p in (ROOT / "results" / n).iterdir()]
    files = sorted(str(p.relative_to(ROOT)) for p in files if p.suffix in (".csv", ".json"))
    assert sorted(listed) == files
    changed = [name for name in files if hashlib.sha256((ROOT / name).read_bytes()).hexdigest() != listed[name]]
    assert changed == []


def test_the_columns_of_a_table_stand_in_one_order():
    headers = {path: path.read_text(encoding="utf-8").partition("\n")[0] for path in (ROOT / "results").rglob("*.csv")}
    ours = {path: [name for name in header.split(",") if name in tidy.COLUMNS] for path, header in headers.items()}
    whole = {path: columns for path, columns in ours.items() if len(columns) == len(tidy.COLUMNS)}
    assert len(whole) > 30
    assert [str(path) for path, columns in whole.items() if columns != tidy.COLUMNS] == []


CURVES = [f"gpu/{name}" for name in ("fig2a", "fig2b", "fig3", "fig4a", "fig4b", "fig5")]
CURVES += [f"paper/{name}" for name in ("fig2a", "fig2b", "fig2b_part", "fig3", "fig3_words", "rule110_t12")]
KINDS = ("majority", "chance", "floor", "answer_floor", "names", "neighbours", "undirected")


@pytest.mark.parametrize("name", CURVES)
def test_the_numbers_of_a_figure_are_those_of_its_table(name, tmp_path):
    """What guessing scores is not: it stands in no table."""
    table = tidy.read(ROOT / f"results/{name}.csv")
    levels = sorted({*table["slice"]} - {"all"})
    guesses = json.dumps({kind: dict.fromkeys(levels, 0.5) for kind in KINDS})
    for folder in (tmp_path, *(tmp_path / f"t{level}" for level in levels)):
        folder.mkdir(exist_ok=True)
        (folder / "baselines.json").write_text(guesses)
    written = json.loads((ROOT / f"results/{name}.json").read_text(encoding="utf-8"))
    at = sorted({record["tokens"] for records in written.values() for record in records if "tokens" in record})
    _, numbers = draw(table.figure.iloc[0], table, at, tmp_path, "paper")
    assert json.loads(json.dumps(rounded(numbers))) | {"baselines": None} == written | {"baselines": None}
