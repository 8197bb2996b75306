"""What a caller in Python gives that is of another type is refused in a sentence that names it."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmsleep import HybridConfig, HybridLM, Session, SleepCallback, SleepModule, read_windows
from lmsleep.checks import checked
from lmsleep.data import RowsDataModule
from lmsleep.model import Lora, check_mixer, register_mixer
from lmsleep.settle import Settle
from lmsleep.tasks import Depo, Documents, GSMInfinite, Rule110, TextLM, TextQA, check_task
from lmsleep.tasks.gsm import DatasetConfig, ProblemConfig
from lmsleep.training import DrawPasses, LastCheckpoint, LearningCurve, OptimizerConfig, StopOnNonFinite, WarmupStage
from lmsleep.windows import SleepSettings

TASK = Rule110(steps=2, width=4, n_states=2)
MODEL = HybridConfig(vocab_size=3, d_model=8, pattern="AG", window_size=4, n_heads=2).build()
NEEDED: dict[Any, dict[str, Any]] = {
    **{key: {} for key in (HybridConfig, Rule110, Depo, GSMInfinite, ProblemConfig, DatasetConfig, OptimizerConfig)},
    **{key: {} for key in (SleepSettings, SleepCallback, LastCheckpoint, LearningCurve, StopOnNonFinite, DrawPasses)},
    **{key: {"train": "a.txt"} for key in (TextLM, Documents, TextQA)},
    **{key: {"task": TASK} for key in (SleepModule, RowsDataModule, check_task)},
    Lora: {"rank": 2},
    Settle: {"threshold": 0.1, "most": 3},
    WarmupStage: {"steps": 3},
    Session: {"model": MODEL},
    Session(MODEL).save: {"path": "a"},
    HybridLM: {"config": MODEL.config},
    HybridLM.from_pretrained: {"source": "a"},
    MODEL.save_pretrained: {"folder": "a"},
    MODEL.config.build: {},
    MODEL.init_fast_weights: {"batch_size": 1},
    register_mixer: {"letter": "Z", "name": "mine", "factory": len},
    check_mixer: {"make": len, "config": MODEL.config},
    read_windows: {"model": MODEL, "tokens": torch.zeros(1, 8, dtype=torch.long)},
}
UNCHECKED = {(Session, "tokenizer"), (read_windows, "shared"), (read_windows, "scored_only")}


@pytest.mark.parametrize("make", NEEDED, ids=lambda make: make.__qualname__)
def test_an_argument_of_another_type_is_named(make):
    for name in inspect.signature(make).parameters:
        if (make, name) in UNCHECKED:
            continue
        for wrong in (object(), [object()]):
            with pytest.raises(ValueError, match=rf"^(item 0 of )?{name} must be .*, got |\b{name}\b.*, got "):
                make(**NEEDED[make] | {name: wrong})


@pytest.mark.parametrize(
    ("make", "given", "sentence"),
    [
        (HybridConfig, {"pattern": None}, "pattern must be a string, got None"),
        (HybridConfig, {"decay_rates": 5}, r"decay_rates must be tuple\[float, float\], got 5"),
        (HybridConfig, {"delta": "no"}, "delta must be true or false, got 'no'"),
        (HybridConfig, {"rule_options": {"G": 3}}, "G in rule_options must be an object, got 3"),
        (Depo, {"test_hops": 5}, r"test_hops must be tuple\[int, \.\.\.\], got 5"),
        (ProblemConfig, {"ops": (1,)}, r"ops must be two numbers in order between 1 and 32, got \(1,\)"),
        (SleepCallback, {"on_overflow": "settle"}, "on_overflow must be a function, got 'settle'"),
        (SleepModule, {"task": TASK, "accelerate": "graphs"}, "accelerate must be one of none, .*, got 'graphs'"),
        (Session, {"model": MODEL, "callbacks": [print, 3]}, "item 1 of callbacks must be a function, got 3"),
        (MODEL.save_pretrained, {"folder": "a", "files": {"a": 1}}, "a in files must be a string, got 1"),
    ],
)
def test_the_sentence_says_what_is_allowed(make, given, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        make(**given)


def test_what_stands_for_a_plain_value_becomes_one():
    config = HybridConfig(d_model=np.int64(8), norm_eps=np.float32(0.5), n_heads=2, loop=[0, 1])
    assert [type(x) for x in (config.d_model, config.norm_eps, config.loop)] == [int, float, tuple]
    assert hash(config) == hash(HybridConfig(d_model=8, norm_eps=0.5, n_heads=2, loop=(0, 1)))
    assert TextLM(train=Path("a.txt")).train == "a.txt"
    assert SleepModule(TASK, {"d_model": 8, "n_heads": 2}).model.config.d_model == 8


def test_a_function_that_is_checked_stays_as_it_is_called():
    @checked
    def double(x: int, *more: int, by: float = 2.0, **options: str) -> float:
        return x * by + sum(more) + len(options)

    assert double(1) == 2 and double(1, 2, 3, by=3, a="b") == 9 and double.__name__ == "double"
    assert list(inspect.signature(double).parameters) == ["x", "more", "by", "options"]
    with pytest.raises(ValueError, match=r"^by must be a finite number, got 'x'$"):
        double(1, by="x")
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        double()
