"""A checkpoint remembers N, is that of the end, and survives a kill."""

import errno
import multiprocessing
import os
import re
import resource
import signal
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lmsleep import SleepCallback
from lmsleep.tasks import Rule110
from lmsleep.training import DrawPasses, LastCheckpoint, WarmupStage
from lmsleep.training.checkpoint import AtomicCheckpointIO
from lmsleep.training.curve import LearningCurve

from .conftest import TASK, Recorder, fitted, weights


@pytest.fixture(scope="module")
def made():
    """N -> the bytes of the checkpoint that was trained with it, once a test has made it."""
    return {}


@pytest.fixture
def checkpoint(run, made, tmp_path):
    """Path of a checkpoint that was trained with N (None: without the callback)."""

    def checkpoint(n_passes):
        path = tmp_path / "a.ckpt"
        if n_passes not in made:
            fitted(run(n_passes, max_steps=1)).trainer.save_checkpoint(path)
            made[n_passes] = path.read_bytes()
        path.write_bytes(made[n_passes])
        return path

    return checkpoint


@pytest.mark.parametrize("stage", ["validate", "test", "predict", "fit"])
def test_a_checkpoint_remembers_n(run, checkpoint, stage):
    path = checkpoint(2)
    same, other = run(2), run(3)
    getattr(same.trainer, stage)(same.module, same.data, ckpt_path=path)
    sentence = r"^n_passes must be 2, with which the checkpoint was trained, got 3; --sleep.allow_other_n=true uses it"
    with pytest.raises(ValueError, match=sentence):
        getattr(other.trainer, stage)(other.module, other.data, ckpt_path=path)
    asked = run(None, [SleepCallback(3, allow_other_n=True)])
    getattr(asked.trainer, stage)(asked.module, asked.data, ckpt_path=path)


def test_a_checkpoint_remembers_the_eviction(run, checkpoint):
    path, cell = checkpoint(2), run(None, [SleepCallback(2, "sliding")])
    with pytest.raises(
        ValueError, match=r"^eviction must be 'hard', with which the checkpoint was trained, got 'sliding'"
    ):
        cell.trainer.validate(cell.module, cell.data, ckpt_path=path)


def test_a_checkpoint_remembers_whether_windows_with_loss_slept(run, checkpoint):
    path, cell = checkpoint(2), run(None, [SleepCallback(2, after_loss=True)])
    older = torch.load(path, weights_only=True)
    del older["sleep"]["after_loss"]
    torch.save(older, path.with_name("older.ckpt"))
    for trained in (path, path.with_name("older.ckpt")):
        with pytest.raises(
            ValueError, match=r"^after_loss must be False, with which the checkpoint was trained, got True"
        ):
            cell.trainer.validate(cell.module, cell.data, ckpt_path=trained)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"optimizer": {"muon_lr": 1e-4}}, r"model\.optimizer\.muon_lr must be 0\.02, .*, got 0\.0001; other settings"),
        ({"optimizer": {"warmup_steps": 3}}, r"model\.optimizer\.warmup_steps must be 2, .*, got 3"),
        ({"data": {"seed": 5}}, r"data\.seed must be 0, .*, got 5"),
        ({"data": {"batch_size": 4}}, r"data\.batch_size must be 8, .*, got 4"),
        ({"task": Rule110(steps=3, width=6, n_states=2)}, r"data\.task\.steps must be 2, .*, got 3"),
        ({"trainer": {"accumulate_grad_batches": 2}}, r"trainer\.accumulate_grad_batches must be 1, .*, got 2"),
        ({"trainer": {"gradient_clip_val": 0.5}}, r"trainer\.gradient_clip_val must be left out, .*, got 0\.5"),
        ({"trainer": {"gradient_clip_algorithm": "value"}}, r"trainer\.gradient_clip_algorithm must be left out, .*"),
        ({"trainer": {"overfit_batches": 2}}, r"trainer\.overfit_batches must be 0\.0, .*, got 2"),
        ({"callbacks": [DrawPasses()]}, r"trainer\.callbacks must be left out, .*, got 'DrawPasses'"),
        (
            {"callbacks": [WarmupStage(9), DrawPasses()]},
            r"trainer\.callbacks must be left out, .*, got 'DrawPasses, WarmupStage'",
        ),
    ],
)
def test_a_resumed_run_refuses_settings_with_which_it_would_be_another(run, checkpoint, changed, sentence):
    """Learning rates would be those of the checkpoint, whatever the run's config.yaml said; rows would be others."""
    path = checkpoint(2)

    def cell():
        more = {"data_options": changed.get("data")} | changed.get("trainer", {})
        made = run(2, changed.get("callbacks", ()), task=changed.get("task", TASK), **more)
        config = made.module.optimizer_config
        made.module.optimizer_config = replace(config, **changed.get("optimizer", {}))
        return made

    with pytest.raises(ValueError, match=f"^{sentence}"):
        (resumed := cell()).trainer.fit(resumed.module, resumed.data, ckpt_path=path)
    (scored := cell()).trainer.validate(scored.module, scored.data, ckpt_path=path, verbose=False)


@pytest.mark.parametrize(("stage", "done"), [("validate", "validated"), ("test", "tested"), ("predict", "predicted")])
def test_scores_on_another_task_are_said_to_be(run, checkpoint, stage, done):
    path = checkpoint(2)
    same, other = run(2), run(2, task=Rule110(steps=3, width=6, n_states=2))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "trained on")
        getattr(same.trainer, stage)(same.module, same.data, ckpt_path=path)
    with pytest.warns(UserWarning, match=rf"^trained on data\.task\.steps=2, {done} on data\.task\.steps=3$"):
        getattr(other.trainer, stage)(other.module, other.data, ckpt_path=path)


def test_a_resumed_run_may_go_on_for_longer_and_be_scored_on_other_rows(run, checkpoint):
    cell = run(2, max_steps=3, data_options={"eval_rows": 48, "eval_batch_size": 4, "num_workers": 1})
    cell.trainer.fit(cell.module, cell.data, ckpt_path=checkpoint(2))
    assert cell.trainer.global_step == 3


def test_a_task_with_a_field_that_is_no_plain_value_resumes(run, tmp_path):
    @dataclass(frozen=True)
    class Other(Rule110):
        where: Path = tmp_path
        sizes: tuple[int, ...] = (1, 2)

    path, task = tmp_path / "a.ckpt", Other(steps=2, width=6, n_states=2)
    fitted(run(2, task=task, max_steps=1)).trainer.save_checkpoint(path)
    again = run(2, task=task)
    again.trainer.fit(again.module, again.data, ckpt_path=path)
    other = run(2, task=replace(task, sizes=(1, 3)))
    with pytest.raises(ValueError, match=r"^data\.task\.sizes must be \[1, 2\], .*, got \[1, 3\]"):
        other.trainer.fit(other.module, other.data, ckpt_path=path)


@pytest.mark.parametrize(
    ("trained", "used", "fits"), [(None, 1, True), (1, None, True), (None, 2, False), (2, None, False)]
)
def test_no_callback_means_one_pass(run, checkpoint, trained, used, fits):
    path, cell = checkpoint(trained), run(used)
    if fits:
        cell.trainer.validate(cell.module, cell.data, ckpt_path=path, verbose=False)
    else:
        with pytest.raises(ValueError, match=f"^n_passes must be {trained or 1}, "):
            cell.trainer.validate(cell.module, cell.data, ckpt_path=path)


def saved_steps(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_the_last_checkpoint_is_that_of_the_end(run, tmp_path):
    """Validations after steps 2 and 4 of 5, and what came after them."""
    steps = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            steps.append(saved_steps(tmp_path / "last.ckpt") if (tmp_path / "last.ckpt").exists() else None)

    saver = LastCheckpoint(str(tmp_path))
    fitted(run(1, [saver, Watch()], max_steps=5, val_check_interval=2, enable_checkpointing=True))
    assert steps == [None, None, 2, 2, 4]
    assert saved_steps(tmp_path / "last.ckpt") == 5
    assert {p.name: saved_steps(p) for p in tmp_path.iterdir()} == {"last.ckpt": 5, "previous.ckpt": 4}
    assert saver.best_model_path == str(tmp_path / "last.ckpt")


class Terminate(L.Callback):
    """Sends SIGTERM to the process at a step, while it trains or while it validates."""

    def __init__(self, stage):
        self.stage = stage

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.stage == "train" and trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.stage == "validate" and trainer.global_step == 4 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("stage", "step"), [("train", 5), ("validate", 4)])
def test_sigterm_saves_within_a_batch_and_nothing_is_lost(run, tmp_path, stage, step):
    """Validations after steps 2, 4 and 6; the one that was cut short is repeated whole."""
    options = {"val_check_interval": 2, "enable_checkpointing": True}
    before, after, whole = Recorder(), Recorder(), Recorder()
    with pytest.raises(SIGTERMException):
        fitted(run(2, [LastCheckpoint(str(tmp_path)), before, Terminate(stage)], **options))
    assert saved_steps(tmp_path / "last.ckpt") == step
    resumed = run(2, [LastCheckpoint(str(tmp_path)), after], **options)
    resumed.trainer.fit(resumed.module, resumed.data, ckpt_path=tmp_path / "last.ckpt")
    assert all(map(torch.equal, weights(resumed.module), weights(fitted(run(2, [whole], **options)).module)))
    assert before.losses + after.losses == whole.losses
    assert before.validations + after.validations == whole.validations


@pytest.mark.parametrize(("handler", "code", "step"), [(signal.SIG_DFL, 143, 4), (signal.SIG_IGN, 0, 6)])
def test_a_terminal_that_is_closed_stops_a_run_as_sigterm_does(run, tmp_path, handler, code, step):
    """Within the fourth step, behind which the run writes to the terminal; one that is to outlive it goes on."""

    def fit_and_close():
        main, end = os.openpty()
        os.login_tty(end)
        signal.signal(signal.SIGHUP, handler)

        class Close(L.Callback):
            def on_before_backward(self, trainer, pl_module, loss):
                if trainer.global_step == 3:
                    os.close(main)

            def on_train_batch_end(self, trainer, *_):
                if code and trainer.global_step == 4:
                    os.write(1, b"a bar")

        try:
            fitted(run(2, [LastCheckpoint(str(tmp_path)), Close()], enable_checkpointing=True))
        except SIGTERMException:
            os._exit(143)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=fit_and_close, daemon=True)
    process.start()
    process.join(timeout=60)
    assert (process.exitcode, saved_steps(tmp_path / "last.ckpt")) == (code, step)


def test_a_stop_within_the_micro_batches_of_a_step_loses_none_of_them(run, tmp_path):
    """Steps of 4 batches; the stop is after the second batch of the third step, which is read again from its first."""

    class StopAtBatch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 9:
                os.kill(os.getpid(), signal.SIGTERM)

    options = {"accumulate_grad_batches": 4, "max_steps": 4, "enable_checkpointing": True}
    whole, after = Recorder(), Recorder()
    uncut = fitted(run(2, [LastCheckpoint(str(tmp_path / "whole")), whole], **options))
    with pytest.raises(SIGTERMException):
        fitted(run(2, [LastCheckpoint(str(tmp_path)), StopAtBatch()], **options))
    resumed = run(2, [LastCheckpoint(str(tmp_path)), after], **options)
    resumed.trainer.fit(resumed.module, resumed.data, ckpt_path=tmp_path / "last.ckpt")
    assert after.losses == whole.losses[8:]
    assert all(map(torch.equal, weights(resumed.module), weights(uncut.module)))


@pytest.fixture(scope="module")
def uncut():
    """The last weights of the run that the tests below stop, once one has made it."""
    return []


@pytest.mark.parametrize("batch", range(1, 7))
def test_a_stop_at_any_batch_of_a_short_epoch_resumes_at_the_next_step(run, uncut, tmp_path, batch):
    """Epochs of 3 batches that are a step each; the run is told to stop within the backward of a batch."""

    class StopWithin(L.Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            if trainer.fit_loop.total_batch_idx == batch + 2:
                os.kill(os.getpid(), signal.SIGTERM)

    options = {"accumulate_grad_batches": 3, "limit_train_batches": 3, "max_epochs": -1, "max_steps": 4}
    uncut.extend([] if uncut else weights(fitted(run(2, **options)).module))
    options["enable_checkpointing"] = True
    with pytest.raises(SIGTERMException):
        fitted(run(2, [LastCheckpoint(str(tmp_path)), StopWithin()], **options))
    resumed = run(2, [LastCheckpoint(str(tmp_path))], **options)
    resumed.trainer.fit(resumed.module, resumed.data, ckpt_path=tmp_path / "last.ckpt")
    assert all(map(torch.equal, weights(resumed.module), uncut))


def test_an_exception_within_an_update_saves_nothing(run, tmp_path):
    class Stop(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 3:
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fitted(run(2, [LastCheckpoint(str(tmp_path)), Stop()], val_check_interval=2, enable_checkpointing=True))
    assert saved_steps(tmp_path / "last.ckpt") == 2


def test_a_kill_while_saving_leaves_the_previous_checkpoint(run, tmp_path):
    """The process dies with half of its second checkpoint written; a new run goes on from the first."""

    def fit_and_die():
        whole, saves = torch.save, []

        def save(content, file):
            saves.append(1)
            whole(content, file)
            if len(saves) == 3:  # the first looks whether it can save
                file.truncate(file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        torch.save = save
        fitted(run(2, [LastCheckpoint(str(tmp_path), every_n_train_steps=2)], enable_checkpointing=True))

    process = multiprocessing.get_context("fork").Process(target=fit_and_die, daemon=True)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert saved_steps(tmp_path / "last.ckpt") == 2
    cell = run(2)
    cell.trainer.fit(cell.module, cell.data, ckpt_path=tmp_path / "last.ckpt")
    assert cell.trainer.global_step == 6
    assert all(map(torch.equal, weights(cell.module), weights(fitted(run(2)).module)))


def test_a_checkpoint_of_another_model_is_refused(run, checkpoint):
    cell = run(2)
    path = checkpoint(2)
    content = torch.load(path, weights_only=False)
    content["model_config"] |= {"d_model": 32, "zero_init": False}
    torch.save(content, path)
    sentence = r"^model\.model\.d_model must be 32, with which the checkpoint was trained, got 16$"
    with pytest.raises(ValueError, match=sentence):
        cell.trainer.test(cell.module, cell.data, ckpt_path=path)


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path):
    """In the middle of the largest tensor, where torch.load would not notice."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 0x40
    path.write_bytes(content)


def flip_in_the_directory(path):
    """The number of the disk on which a part of the archive begins, which Python does not look at."""
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 34] ^= 0x40
    path.write_bytes(content)


def compress_otherwise(path):
    """The directory names a way to compress that nobody knows."""
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 10] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, flip_in_the_directory, compress_otherwise])
def test_a_damaged_checkpoint_is_refused_by_name(run, checkpoint, damage, tmp_path):
    path, cell = checkpoint(2), run(2, [LastCheckpoint(str(tmp_path))], enable_checkpointing=True)
    damage(path)
    before = weights(cell.module)
    with pytest.raises(ValueError, match=r"checkpoint '.*a\.ckpt' is damaged"):
        cell.trainer.fit(cell.module, cell.data, ckpt_path=path)
    assert all(map(torch.equal, weights(cell.module), before))


class At(L.Callback):
    """Does something when a step is done."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            self.do(pl_module)


def test_weights_that_are_not_finite_do_not_replace_finite_ones(run, tmp_path):
    spoil = At(4, lambda module: module.model.norm.weight.data.fill_(torch.nan))
    saver = LastCheckpoint(str(tmp_path), every_n_train_steps=2)
    sentence = "weights are not finite at step 4, the first of them model.norm.weight; they were not saved"
    with pytest.raises(FloatingPointError, match=f"^{re.escape(sentence)}$"):
        fitted(run(2, [spoil, saver], enable_checkpointing=True))
    assert {p.name: saved_steps(p) for p in tmp_path.iterdir()} == {"last.ckpt": 2}


def test_what_cannot_be_saved_is_known_before_the_first_step(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lmsleep.training.checkpoint.torch.save", full)
    seen = Recorder()
    with pytest.raises(OSError, match="No space left"):
        fitted(run(2, [seen, LastCheckpoint(str(tmp_path))], enable_checkpointing=True))
    assert not seen.tokens and not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_previous_checkpoint(tmp_path):
    """A limit on the size of files takes the disk's place."""
    path, limits = tmp_path / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    AtomicCheckpointIO().save_checkpoint({"global_step": 1}, path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            AtomicCheckpointIO().save_checkpoint({"global_step": 2, "x": torch.zeros(10**6)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: saved_steps(p) for p in tmp_path.iterdir()} == {"last.ckpt": 1}


def test_a_folder_with_a_checkpoint_is_refused_unless_the_run_goes_on_from_it(run, tmp_path):
    def fit(max_steps, folder=tmp_path / "a", ckpt_path=None, **options):
        cell = run(2, [LastCheckpoint(str(folder), **options)], enable_checkpointing=True, max_steps=max_steps)
        cell.trainer.fit(cell.module, cell.data, ckpt_path=ckpt_path)

    fit(2)
    fit(1, folder=tmp_path / "b")
    for other in (None, tmp_path / "b" / "last.ckpt"):
        with pytest.raises(ValueError, match=r"^dirpath must be a folder without last.ckpt, got .*a'; go on from it "):
            fit(3, ckpt_path=other)
    assert saved_steps(tmp_path / "a" / "last.ckpt") == 2
    for _ in range(2):  # the second has nothing to do
        fit(3, ckpt_path=tmp_path / "a" / "last.ckpt")
        assert {p.name: saved_steps(p) for p in (tmp_path / "a").iterdir()} == {"last.ckpt": 3, "previous.ckpt": 2}
    fit(1, overwrite=True)
    assert saved_steps(tmp_path / "a" / "last.ckpt") == 1


def test_two_runs_in_one_folder_are_refused(run, tmp_path):
    def second(_):
        with pytest.raises(ValueError, match=rf"^'{tmp_path}' is in use by another run$"):
            fitted(run(2, [LastCheckpoint(str(tmp_path))], enable_checkpointing=True))

    fitted(run(2, [At(3, second), LastCheckpoint(str(tmp_path))], enable_checkpointing=True))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    fitted(run(2, [LastCheckpoint(str(tmp_path), overwrite=True)], enable_checkpointing=True))


def test_a_run_starts_by_removing_what_a_killed_one_left(run, tmp_path):
    (tmp_path / ".last.ckpt.0123abcd").touch()
    seen = []
    look = At(1, lambda _: seen.extend(p.name for p in tmp_path.iterdir()))
    fitted(run(2, [look, LastCheckpoint(str(tmp_path))], enable_checkpointing=True))
    assert seen == [".lock"]


class RunsCode:
    def __reduce__(self):
        return (pytest.fail, ("the file ran code",))


def test_a_checkpoint_that_would_run_code_is_refused_by_name(run, checkpoint, tmp_path):
    path = checkpoint(2)
    torch.save(torch.load(path, weights_only=True) | {"more": RunsCode()}, path)
    for stage in ("fit", "validate", "test", "predict"):
        cell = run(2, [LastCheckpoint(str(tmp_path / "run"))], enable_checkpointing=True)
        with pytest.raises(ValueError, match=r"^checkpoint '.*a\.ckpt' must hold tensors and plain values alone$"):
            getattr(cell.trainer, stage)(cell.module, cell.data, ckpt_path=path)


def places(value, path=()):
    """Every path into what a checkpoint holds, and the value there."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def with_other(content, path, other):
    """A copy of nested values with another one at a path; `missing`: without it."""
    if not path:
        return other
    copy = dict(enumerate(content)) if isinstance(content, list | tuple) else dict(content)
    first, *rest = path
    if other is missing and not rest:
        del copy[first]
    else:
        copy[first] = with_other(copy[first], rest, other)
    return list(copy.values()) if isinstance(content, list | tuple) else copy


missing = object()
OTHER = [3, "x", 0.5, [], {}, [{}], {"a": 1}, {1: 1}, None, torch.ones(2, 3, 5), missing]


def test_what_is_built_otherwise_anywhere_in_a_checkpoint_is_one_sentence_before_anything_is_written(run, tmp_path):
    """At every place of the loops, optimizer, schedule and callbacks, one of the others in turn: a run goes on, where
    nothing hangs on it, or ends with a sentence that names the place."""
    options = {"enable_checkpointing": True, "val_check_interval": 2}

    def resumed(path, max_steps, *more):
        callbacks = [LastCheckpoint(str(tmp_path / "run")), LearningCurve(tmp_path / "curve.csv"), *more]
        cell = run(2, callbacks, max_steps=max_steps, **options)
        cell.trainer.fit(cell.module, cell.data, ckpt_path=path)

    resumed(None, 2)
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    content = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    read = {key: content[key] for key in ("loops", "optimizer_states", "lr_schedulers", "callbacks")}
    read["loops"] = {"fit_loop": content["loops"]["fit_loop"]}
    found, odd, refused = [path for path, _ in places(read) if path][::2], tmp_path / "run" / "odd.ckpt", 0
    for i, path in enumerate(found):
        torch.save(with_other(content, path, OTHER[i % len(OTHER)]), odd)
        try:
            resumed(odd, 2)  # which has nothing to do
        except ValueError as error:
            refused += 1
            key = path[-1] if isinstance(path[-1], str) else path[-2]
            assert str(key) in str(error) and "checkpoint" in str(error)
            assert (tmp_path / "run" / "last.ckpt").read_bytes() == before
        (tmp_path / "run" / "last.ckpt").write_bytes(before)
    assert refused > len(found) / 2


def test_tensors_that_are_as_they_should_be_are_not_written_out(run, checkpoint, monkeypatch):
    path, cell = checkpoint(2), run(2)
    monkeypatch.setattr(torch.Tensor, "__repr__", lambda *_, **__: pytest.fail("a tensor was written out"))
    cell.trainer.fit(cell.module, cell.data, ckpt_path=path)


@pytest.mark.parametrize("key", ["loops", "optimizer_states", "lr_schedulers"])
@pytest.mark.parametrize("value", [missing, {}, []], ids=["missing", "object", "list"])
def test_a_run_goes_on_from_no_checkpoint_without_its_position_or_momenta(run, checkpoint, key, value):
    path, cell = checkpoint(2), run(2)
    torch.save(with_other(torch.load(path, weights_only=True), [key], value), path)
    with pytest.raises(ValueError, match=rf"\b{key}\b.* must |must have {key}"):
        cell.trainer.fit(cell.module, cell.data, ckpt_path=path)


@pytest.mark.parametrize("options", [{}, {"enable_checkpointing": True}], ids=str)
def test_a_trainer_that_keeps_no_checkpoint_reads_it_as_carefully(run, checkpoint, options):
    path, cell = checkpoint(2), run(2, **options)
    flip_a_bit(path)
    with pytest.raises(ValueError, match=r"checkpoint '.*a\.ckpt' is damaged"):
        cell.trainer.test(cell.module, cell.data, ckpt_path=path)


def test_a_sharded_model_reads_a_checkpoint_as_carefully(run, checkpoint, tmp_path):
    """Its strategy reads the file by itself. In a process of its own, as it joins a group of processes."""

    fork = multiprocessing.get_context("fork")
    said = fork.Queue()

    def resumed(path, max_steps, sharded=True):
        whole = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False)
        cell = run(2, strategy=whole if sharded else "auto", devices=1, max_steps=max_steps)
        try:
            cell.trainer.fit(cell.module, cell.data, ckpt_path=path)
            cell.trainer.save_checkpoint(tmp_path / "saved.ckpt")
            said.put(f"went on to step {cell.trainer.global_step}")
        except BaseException as error:
            said.put(repr(error))

    def found(*args):
        process = fork.Process(target=resumed, args=args, daemon=True)
        process.start()
        process.join(timeout=60)
        return said.get(timeout=1)

    # Whose momenta it would take for those of other weights.
    assert "must be numbered as a sharded run does" in found(checkpoint(2), 6)
    assert found(None, 1) == "went on to step 1"
    content = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    assert found(tmp_path / "saved.ckpt", 2, False) == "went on to step 2"
    odd = {"whole": content, "flipped": content}
    odd |= {key: with_other(content, [key], []) for key in ("loops", "optimizer_states", "lr_schedulers", "sleep")}
    odd["weights"] = with_other(content, ["state_dict"], {})
    matrix = content["optimizer_states"][0]["param_groups"][0]["params"][0]
    odd["momentum"] = with_other(content, ["optimizer_states", 0, "state", matrix, "momentum"], torch.ones(3))
    odd["groups"] = with_other(content, ["optimizer_states", 0, "param_groups", 0, "params"], missing)
    for name, value in odd.items():
        torch.save(value, tmp_path / "odd.ckpt")
        if name == "flipped":
            flip_a_bit(tmp_path / "odd.ckpt")
        sentence = "^went on to step 6$" if name == "whole" else r"^ValueError\(.*odd\.ckpt"
        assert re.match(sentence, found(tmp_path / "odd.ckpt", 6)), name
