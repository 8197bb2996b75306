"""Stage `train`: one cell of a grid.

python -m lmsleep.figures.train runs/mini/fig2b/n4-s0 --config configs/experiment/rule110.yaml --sleep.n_passes=4

The arguments after the folder are those of `lmsleep fit`; after `--arm`, those of configs/arms.yaml for the arm of a
folder <arm>-s<seed> are appended. The folder gets last.ckpt, curve.csv, config.yaml and run.json, and after `--export`
what `lmsleep export` makes of it, for others to start from. DVC empties an output folder before its stage starts, so
the state to resume from lives elsewhere, under the hash of `digest`, over arguments, code and all files that are read:
a run that was stopped resumes, a changed one starts afresh. A run with N > 1 whose first batch has no window that
sleeps ends with an error.
"""

import hashlib
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

import lmsleep
from lmsleep.atomic import save_json
from lmsleep.checks import LAST, PATHS, read_object, require
from lmsleep.commands.fit import run_trainer
from lmsleep.commands.quiet import quiet
from lmsleep.errors import check_paths, one_sentence
from lmsleep.figures.provenance import commit, hardware
from lmsleep.figures.settings import ARMS_FILE, arm_of, arms, merge_configs
from lmsleep.hub import TOKENIZER
from lmsleep.model.mixers import GROUP, named_plugins
from lmsleep.pretrained.export import export
from lmsleep.signals import INTERRUPTED, TERMINATED
from lmsleep.tasks.base import SPLITS
from lmsleep.tasks.gsm import Dataset
from lmsleep.tasks.line_index import text_files
from lmsleep.training.checkpoint import PREVIOUS
from lmsleep.training.curve import tokens_read
from lmsleep.training.nonfinite import FOLDER_PREFIX
from lmsleep.windows import IdleWarning

RESUME = Path("runs/.resume")
SECONDS = "seconds.json"  # beside the checkpoint, which must not depend on the clock


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a run that fails ends it with its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in ([], [""]) or words[0].startswith("-"):
        sys.exit(__doc__)
    with one_sentence():
        out, args = Path(words[0]), words[1:]
        check_paths(args, PATHS)
        if args[:1] == ["--arm"]:
            args = [*args[1:], *arguments_of_arm(out)]
        exports = args[:1] == ["--export"]
        train(out, args[exports:], exports)


def train(out: Path, fit_args: list[str], exports: bool = False) -> None:
    """Runs `lmsleep fit` into `out`, resuming an interrupted run with the same arguments and code; if it `exports`, the
    model is saved there, too."""
    state = RESUME / digest(out, fit_args)
    print(f"{out}: {'resuming' if (state / LAST).exists() else 'starting'}", flush=True)
    attended = sys.stderr.isatty()
    code, clock = commit(), RunClock(state)
    try:
        with nullcontext() if attended else quiet(), warnings.catch_warnings():
            warnings.simplefilter("error", IdleWarning)  # nobody reads a warning in a grid
            cli = run_trainer(
                [
                    "fit",
                    *fit_args,
                    f"--trainer.default_root_dir={state}",
                    "--trainer.logger=false",
                    f"--checkpoint.dirpath={state}",
                    "--trainer.callbacks+=lmsleep.training.LearningCurve",
                    f"--trainer.callbacks.path={state / 'curve.csv'}",
                    *([] if attended else ["--trainer.enable_progress_bar=false", f"--trainer.callbacks.label={out}"]),
                    *([f"--ckpt_path={state / LAST}"] if (state / LAST).exists() else []),
                ],
                callbacks=[clock],
            )
    except SystemExit as end:
        if end.code in (INTERRUPTED, TERMINATED) and state.is_dir():
            clock.note()
        raise
    if cli.trainer.is_global_zero:  # the folders are of the first of several processes
        made_with = {"hardware": hardware(), "torch": torch.__version__, "commit": code}
        read = {"tokens": tokens_read(cli.trainer), "seconds": round(clock.seconds, 1)}
        save_json(state / "run.json", {**read, "args": fit_args, **made_with})
        if exports:  # if that fails, the next run begins at the end of this one
            export(state / LAST, state)
        move(state, out)


def move(state: Path, out: Path) -> None:
    """Puts what a run has left in the place of its output, without what only an unfinished one needs."""
    for needless in (*state.glob(".*"), state / PREVIOUS):  # temporary files of killed `atomic_write`s
        needless.unlink(missing_ok=True)
    for bundle in state.glob(f"{FOLDER_PREFIX}*"):  # of an earlier failure
        shutil.rmtree(bundle)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(state, out)
    (out / SECONDS).unlink(missing_ok=True)  # not before run.json is in its place


class RunClock(L.Callback):
    """The seconds of a run with those of its earlier parts, noted beside each checkpoint: a run that is killed has no
    other time to do it."""

    def __init__(self, state: Path) -> None:
        self.path, self.before, self.since = state / SECONDS, seconds_before(state), time.time()

    @property
    def seconds(self) -> float:
        return self.before + time.time() - self.since

    @rank_zero_only
    def note(self) -> None:
        with suppress(OSError):  # it must stop no run
            save_json(self.path, {"seconds": self.seconds})

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.note()


def seconds_before(state: Path) -> float:
    """What the parts of a run took that were stopped, or killed until their last checkpoint; 0 if its folder does not
    say."""
    try:
        seconds = float(read_object(state / SECONDS)["seconds"])
    except (OSError, ValueError, KeyError, TypeError):  # a note that must stop no run
        return 0.0
    return seconds if 0 <= seconds < float("inf") else 0.0


def arguments_of_arm(out: Path) -> tuple[str, ...]:
    """The arguments of the arm that a folder is named after. Raises ValueError if there is no such arm."""
    known = arms()
    require(arm_of(out) in known, f"the folder must be called <arm>-s<seed> with an arm of {ARMS_FILE}", str(out))
    arm = known[arm_of(out)]
    return arm.arms_depo if out.parent.name == "arms_depo" and arm.arms_depo else arm.arguments


def digest(out: Path, fit_args: list[str]) -> str:
    """A hash of a run: its folder and arguments, the code, yours too, and the files that it reads: configurations,
    dataset, texts, tokenizer, initial weights."""
    words = [part for word in fit_args for part in word.split("=", 1)]
    configs = [file for option, file in pairwise(words) if option == "--config"]
    overrides = [a.removeprefix("--") for a in fit_args if a.startswith(("--data.task.", "--model.init_from="))]
    config: DictConfig = OmegaConf.create(merge_configs(configs, overrides))
    package = (path for path in Path(lmsleep.__file__).parent.rglob("*") if path.suffix in (".py", ".yaml"))
    named = [Path(a.split("=", 1)[-1]) for a in fit_args if a.endswith((".yaml", ".yml", ".json"))]
    code = [file.read_text(encoding="utf-8") for file in (*named, *own_code(config, fit_args), *sorted(package))]
    stored = OmegaConf.select(config, "data.task.init_args.path")
    problems = [Dataset(stored).sha256] if stored and Path(stored).is_dir() else []
    read = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files_read(config)]
    return hashlib.sha256("\0".join([str(out), *fit_args, *code, *problems, *read]).encode()).hexdigest()[:16]


def files_read(config: DictConfig) -> Iterator[Path]:
    """The files on this disk that a run reads beside its dataset: texts, tokenizer, initial weights."""
    for split in SPLITS:
        if source := OmegaConf.select(config, f"data.task.init_args.{split}"):
            yield from source_files(source)
    if tokenizer := OmegaConf.select(config, "data.task.init_args.tokenizer"):
        yield from (path for path in (Path(tokenizer), Path(tokenizer, TOKENIZER[0])) if path.is_file())
    if start := OmegaConf.select(config, "model.init_from"):
        yield from sorted(Path(start).glob("*.safetensors"))


def source_files(source: str) -> tuple[Path, ...]:
    """The files on this disk that rows come from, see `TextTask`; behind a dataset its split may stand."""
    return text_files(source, whole=True) or text_files(source.partition(":")[0], whole=True)


def own_code(config: DictConfig, fit_args: list[str]) -> Iterator[Path]:
    """The sources of a task and a sleep of another package, and of the plugins."""
    sleeps = [OmegaConf.select(config, "sleep.on_overflow")]
    sleeps += [word.partition("=")[2] for word in fit_args if word.startswith("--sleep.on_overflow=")]
    paths = [OmegaConf.select(config, "data.task.class_path")]
    paths += [sleep.get("class_path") if isinstance(sleep, DictConfig) else sleep for sleep in sleeps]
    modules = [str(path).rpartition(".")[0] for path in paths]
    for module in [*modules, *named_plugins(), *(plugin.module for plugin in entry_points(group=GROUP))]:
        if module and module.partition(".")[0] != "lmsleep":
            with suppress(ImportError):  # the run says so
                spec = find_spec(module)
                yield from [Path(spec.origin)] if spec and spec.origin else []


if __name__ == "__main__":
    main()
