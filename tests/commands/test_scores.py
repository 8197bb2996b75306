"""What `validate` and `test` print: a line for each slice."""

import torch

from lmsleep.commands.scores import by_slice, print_scores

SCORES = {"test/exact": 0.28173828125, "test/rows": 2048.0, "test/exact-10": 0.1, "test/rows-10": 1024.0}
SCORES |= {"test/exact-2": 0.46, "test/rows-2": 1024.0, "change_of_S/pass-2": 0.53125}
METRICS = {name: torch.tensor(value) for name, value in SCORES.items()}


def test_slices_are_in_their_order_and_all_of_them_last():
    of_slices, others = by_slice("test", METRICS)
    assert list(of_slices) == ["2", "10", "all"]
    assert of_slices["all"] == {"exact": SCORES["test/exact"], "rows": 2048.0}
    assert others == {"change_of_S/pass-2": 0.53125}


def test_a_line_for_each_slice_without_digits_that_mean_nothing(capsys):
    print_scores("test", METRICS | {"test/loss-2": torch.tensor(1.5)})
    out = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in out.splitlines()]
    assert lines[1] == ["test", "exact", "rows", "loss"]
    assert [cell for cell in lines[4] if cell] == ["10", "0.1", "1,024"]
    assert [cell for cell in lines[5] if cell] == ["all", "0.2817", "2,048"]
    assert out.endswith("change_of_S/pass-2 0.5312\n")
