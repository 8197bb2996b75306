"""The parallel `dvc repro` finds the stages that its targets need."""

import pytest

from lmsleep.pipeline.repro import plan


def test_a_figure_needs_its_own_data_and_cells():
    data, cells, evaluations = plan(["fig2b"])
    assert evaluations == ["evaluate_fig2b"]
    assert data == ["data_fig2b"]
    assert cells and all(cell.startswith("train_fig2b@") for cell in cells)


def test_several_figures_need_the_stages_of_each():
    data, cells, evaluations = plan(["fig2b", "fig2a"])
    assert set(evaluations) == {"evaluate_fig2a", "evaluate_fig2b"}
    assert {name.split("@")[0] for name in data} == {"data_fig2a", "data_fig2b"}
    assert set(cells) == {*plan(["fig2a"])[1], *plan(["fig2b"])[1]}


def test_the_longest_cells_begin():
    cells = plan(["fig2b"])[1]
    passes = [int(cell.split("@")[1].split("-")[0]) for cell in cells]
    assert passes == sorted(passes, reverse=True) and len(set(passes)) > 1


def test_an_unknown_figure_ends_with_a_sentence():
    with pytest.raises(SystemExit, match="fig9"):
        plan(["fig9"])
