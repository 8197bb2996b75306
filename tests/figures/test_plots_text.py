"""The figure on natural text: differences and what they are paired with, from losses written out here."""

import json

import pandas as pd
import pytest

from lmsleep.cli import run
from lmsleep.figures.draw import main
from lmsleep.figures.table import COLUMNS

# (N, tokens) -> loss of seeds 0 to 2; of rows of 4 windows, of which 3 sleep, N = 3 reads 1 + 2 * 3/4 = 2.5 times.
# N = 1 with the operations of N = 4 (3.25 times) has learned its files by heart.
LOSSES = {
    (1, 1000): (2.0, 2.2, 2.1),
    (2, 1000): (1.5, 1.9, 1.7),
    (3, 1000): (1.4, 1.6, 1.5),
    (1, 1750): (1.7, 2.0, 1.85),
    (1, 2500): (1.0, 1.1, 1.05),
    (4, 1000): (1.2, 1.3, 1.25),
    (1, 3250): (3.0, 3.1, 3.05),
}
GROUPS = {"window": 4, "repeat": 4, "rare": 3, "new": 1}


def rows():
    for (n, tokens), losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            model = f"AG-k{tokens}"
            for part, offset in ((0.5, 0.25), (1, 0)):
                yield model, n, seed, "all", int(part * tokens), "val_loss", loss - offset
            yield model, n, seed, "all", tokens, "test_loss", loss
            yield model, n, seed, "3", tokens, "test_loss", 9.0
            yield model, n, seed, "all", tokens, "cut_loss", loss + 1
            yield model, n, seed, "3", tokens, "test_exact", 0.0
            for name, size in GROUPS.items():
                for group in range(size):
                    yield model, n, seed, str(group), tokens, f"test_{name}_loss", loss + group
                    yield model, n, seed, str(group), tokens, f"test_{name}_count", 10.0 ** (4 - group)
            for group in (0, 3):
                yield model, n, seed, str(group), tokens, "test_needle_loss", loss + group
                yield model, n, seed, str(group), tokens, "test_needle_exact", 0.5
            yield model, n, seed, "all", tokens, "test_needle_loss", 9.0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The numbers of the figure."""
    tmp_path = tmp_path_factory.mktemp("text")
    table = pd.DataFrame(rows(), columns=COLUMNS[1:]).assign(figure="text")[COLUMNS]
    table.to_csv(tmp_path / "text.csv", index=False)
    (tmp_path / "corpus.json").write_text('{"python": "3.11.7"}')
    out = tmp_path / "out" / "text"
    run(
        main,
        [
            "--figure",
            "text",
            "--scale",
            "gpu",
            "--table",
            str(tmp_path / "text.csv"),
            "--data",
            str(tmp_path),
            "--out",
            str(out),
        ],
    )
    assert out.with_suffix(".png").exists() and out.with_suffix(".svg").exists()
    return json.loads(out.with_suffix(".json").read_text())


def test_each_n_is_paired_with_n_1_after_equal_steps_and_after_its_operations(drawn):
    found = {(r["n_passes"], r["trained_as"], r["against"]): r["value"] for r in drawn["text"]}
    wanted = {
        (2, 2, "equal steps"): -0.4,
        (3, 3, "equal steps"): -0.6,
        (1, 2, "equal steps"): -0.25,
        (4, 4, "equal steps"): -0.85,
        (1, 3, "equal steps"): -1.05,
        (1, 4, "equal steps"): 0.95,
        (2, 2, "up to equal operations"): -0.15,
        (3, 3, "up to equal operations"): 0.45,
        (4, 4, "up to equal operations"): 0.2,  # from N = 1 with the operations of N = 3
    }
    assert found == pytest.approx(wanted)
    [record] = [r for r in drawn["text"] if r["n_passes"] == 2 and r["against"] == "equal steps"]
    half = 4.302652730 * 0.1 / 3**0.5  # Student's t with two degrees of freedom, standard error of -0.5, -0.3 and -0.4
    assert (record["low"], record["high"], record["n"]) == pytest.approx((-0.4 - half, -0.4 + half, 3))


def test_groups_are_means_over_seeds_and_those_of_few_bytes_are_left_out(drawn):
    losses = {
        (r["metric"], r["slice"]): r["value"] for r in drawn["losses"] if (r["n_passes"], r["tokens"]) == (1, 1750)
    }
    wanted = {("test_loss", 0): 1.85, ("cut_loss", 0): 2.85, ("test_new_loss", 0): 1.85}
    wanted |= {("test_needle_loss", d): 1.85 + d for d in (0, 3)} | {("test_needle_exact", d): 0.5 for d in (0, 3)}
    wanted |= {("test_window_loss", i): 1.85 + i for i in range(4)}
    wanted |= {(f"test_{name}_loss", d): 1.85 + d for name in ("repeat", "rare") for d in (0, 1)}
    assert losses == pytest.approx(wanted)


def test_a_run_that_was_better_before_its_end_is_seen(drawn):
    record = next(r for r in drawn["validation"] if r["model"] == "AG-k2500")
    assert record == {
        "model": "AG-k2500",
        "n_passes": 1,
        "lowest": pytest.approx(0.8),
        "at_tokens": 1250,
        "last": pytest.approx(1.05),
        "last_tokens": 2500,
    }
    assert drawn["corpus"] == [{"python": "3.11.7"}]
