"""What several rooms need: a small model in float64, in which an error cannot hide behind rounding."""

import gc
import multiprocessing
import os
import sys

import pytest


def pytest_collection():
    """Imports what takes seconds in the processes that run tests; one that only hands them to others collects none.
    Lightning goes before the tests, as its logger keeps the stderr of its import: not one that pytest closes after a
    test."""
    gc.disable()
    # OpenMP reads this once; where its threads have computed, a process that is forked hangs as it computes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    if not torch.cuda.is_available():
        # Without CUDA, Triton's kernels run in its interpreter; triton reads this when it is imported, as by Lightning.
        os.environ["TRITON_INTERPRET"] = "1"
    import tests.once  # noqa: F401


def pytest_collection_finish():
    """Leaves what was imported, half a million objects that stay, out of every collection of garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def end_workers():
    """Ends the processes of loaders that a test left in a reference cycle. Where the collector finds one, the queue
    that would tell them to end is gone before the loader, which then waits five seconds for each."""
    yield
    if multiprocessing.active_children():
        from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Workers

        for found in gc.get_objects():
            if type(found) is Workers:
                found._shutdown_workers()


@pytest.fixture(scope="session")
def build():
    """build(pattern, **options): a model with all weights away from zero, the same one for the same arguments."""
    import torch

    from lmsleep import HybridConfig

    def build(pattern="AGAG", dtype=torch.float64, **options):
        sizes = {"vocab_size": 7, "d_model": 16, "window_size": 6, "n_heads": 2, "mlp_dim": 24, "zero_init": False}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = HybridConfig(pattern=pattern, **(sizes | options)).build().to(dtype)
            torch.nn.init.normal_(model.embedding.weight)
        return model

    return build


@pytest.fixture(scope="session")
def draw_tokens():
    """draw_tokens(rows, length, seed=0): tokens below 7."""
    import torch

    def draw_tokens(rows, length, seed=0):
        return torch.randint(7, (rows, length), generator=torch.Generator().manual_seed(seed))

    return draw_tokens


@pytest.fixture
def rows(draw_tokens):
    """Two full windows of six and a prediction window of four: tokens and targets (5, 16)."""
    tokens, targets = draw_tokens(5, 16), draw_tokens(5, 16, seed=1)
    targets[:, :12] = -100
    return tokens, targets


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """Works in an empty folder. Lightning warns where a program with arguments of its own calls its command line."""
    monkeypatch.setattr(sys, "argv", ["lmsleep"])
    monkeypatch.chdir(tmp_path)
