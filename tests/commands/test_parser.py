"""Which option of a run an error means."""

import pytest
from jsonargparse import Namespace

from lmsleep.commands.parser import option_of

RUN = Namespace(
    steps=0,
    data=Namespace(
        batch_size=8, task=Namespace(class_path="TextQA", init_args=Namespace(train="a.jsonl", window_size=3, steps=5))
    ),
    model=Namespace(model=Namespace(window_size=None), lora=None),
    trainer=Namespace(devices=1),
)


@pytest.mark.parametrize(
    ("name", "got", "option"),
    [
        ("batch_size", "must be 1 or more, got 8", "--data.batch_size"),
        ("train", "must be a file, got 'a.jsonl'", "--data.task.init_args.train"),
        ("trainer.devices", "must be 2, got 1", "--trainer.devices"),
        ("window_size", "must be 4 or more, got 3", "--data.task.init_args.window_size"),  # and not that of the model
        ("steps", "must be 2 or more, got 0", "--steps"),
        ("steps", "must be 9 or more, got 5", "--data.task.init_args.steps"),
        ("steps", "must be fewer", None),  # of which is unknown
        ("size", "must be 1, got 8", None),
        ("data.task", "must be 'TextQA', got 'Depo'", "--data.task"),
        ("model.lora.rank", "must be left out, got 4", "--model.lora.rank"),
    ],
)
def test_a_setting_is_known_by_the_end_of_its_name_and_by_its_value(name, got, option):
    for config in (RUN, Namespace(subcommand="fit", fit=RUN)):
        assert option_of(config, name, got) == option
    assert option_of(Namespace(), name, got) in (option, None)
