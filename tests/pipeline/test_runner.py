import sys
import time

import pytest

from lmsleep.pipeline import runner
from lmsleep.pipeline.cells import Cell

ABORTS = "import sys; print('CUDA error: no'); [print(f'frame #{i}: f (at x.cpp:1)') for i in range(40)]; sys.exit(3)"


@pytest.fixture
def fails(tmp_path, monkeypatch):
    """What the run of a cell that ends with an error of C++ leaves: (runner, folder of the cell)."""
    monkeypatch.setattr(runner, "fit_command", lambda *_: [sys.executable, "-c", ABORTS])
    mine = runner.Runner(jobs=1, until=time.time() + 60, reserve=10, pause_at_step=None)
    cell = Cell("n1", [], tmp_path / "n1")
    return mine.train([cell]), cell.folder


def test_a_failed_cell_shows_its_error_and_not_the_frames_behind_it(capfd, fails):
    assert fails[0] == {"n1": "exit code 3"}
    assert "CUDA error: no" in capfd.readouterr().err


def test_the_log_of_a_failed_cell_holds_all_it_said(fails):
    lines = (fails[1] / "log.txt").read_text().splitlines()
    assert lines[0] == "CUDA error: no" and len(lines) == 41
