"""The end of a slice: when training stops, and that what follows does not depend on it."""

import pytest
import torch

from lmsleep import SleepModule
from lmsleep.training import LastCheckpoint
from lmsleep.training.deadline import Deadline, RandomState

from .conftest import Recorder, fitted


class Drawing(SleepModule):
    """Draws a random number in every training step, as dropout does, and lets the loss show it."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + 0 * torch.rand(())) + torch.rand(())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_pauses_at_a_whole_step_after_a_last_validation(run, accumulate):
    recorder = Recorder()
    options = {"accumulate_grad_batches": accumulate}
    cell = fitted(run(2, [recorder, Deadline(pause_at_step=3)], **options))
    assert cell.trainer.global_step == 3 and len(recorder.losses) == 3 * accumulate
    assert [step for step, _ in recorder.validations] == [3]


def test_a_time_that_has_passed_ends_training_after_one_step(run):
    cell = fitted(run(2, [Deadline(until=0)], accumulate_grad_batches=2))
    assert cell.trainer.global_step == 1


def test_without_an_end_training_goes_on_to_max_steps_and_validates_there(run):
    recorder = Recorder()
    assert fitted(run(2, [recorder, Deadline()], val_check_interval=4)).trainer.global_step == 6
    assert [step for step, _ in recorder.validations] == [4, 6]
    with pytest.raises(ValueError, match="pause_at_step must be 1 or more, got 0"):
        Deadline(pause_at_step=0)


@pytest.mark.parametrize("with_callback", [True, False])
def test_random_numbers_do_not_depend_on_where_a_run_pauses(run, tmp_path, with_callback):
    """The same six steps, in one go and paused after the fourth, between two validations."""

    def losses(*callbacks, ckpt_path=None):
        recorder = Recorder()
        states = [RandomState()] if with_callback else []
        cell = run(
            2,
            [recorder, *states, *callbacks, LastCheckpoint(str(tmp_path))],
            module_class=Drawing,
            enable_checkpointing=True,
            val_check_interval=3,
        )
        torch.manual_seed(1)
        cell.trainer.fit(cell.module, cell.data, ckpt_path=ckpt_path)
        return recorder.losses

    paused = losses(Deadline(pause_at_step=4))
    resumed = losses(ckpt_path=tmp_path / "last.ckpt")
    assert len(paused) == 4 and len(resumed) == 2
    assert (losses() == paused + resumed) is with_callback  # and the test can tell
