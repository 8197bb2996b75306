"""Stage `train`: one cell of a grid.

python -m lmsleep.pipeline.train --out runs/mini/fig2b/n4-s0 --config configs/experiment/rule110.yaml --sleep.n_passes=4

Everything but `--out` goes to `lmsleep fit`. DVC empties an output folder before its stage starts, so the state to
resume from lives elsewhere, under a name made of the arguments, the configuration files, their dataset and the code: a
killed run goes on where its last validation or SIGTERM saved it, a changed one starts afresh.
"""

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf

import lmsleep
from lmsleep.errors import one_sentence
from lmsleep.pipeline.experiment import read_config
from lmsleep.pipeline.provenance import commit, hardware
from lmsleep.tasks.gsm import Dataset
from lmsleep.training.fit import run_trainer

RESUME = Path("runs/.resume")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for last.ckpt, curve.csv, config.yaml, run.json"
    )
    args, fit_args = parser.parse_known_args(argv)
    with one_sentence():
        train(args.out, fit_args)


def train(out: Path, fit_args: list[str]) -> None:
    """Runs `lmsleep fit` into `out`, from the saved state of an interrupted run of the same arguments and code."""
    state = RESUME / digest(out, fit_args)
    print(f"{out}: {'resuming' if (state / 'last.ckpt').exists() else 'starting'}", flush=True)
    unattended = ["--trainer.enable_progress_bar=false", f"--trainer.callbacks.label={out}"]
    started, code = time.time(), commit()
    run_trainer(
        [
            "fit",
            *fit_args,
            f"--trainer.default_root_dir={state}",
            "--trainer.logger=false",
            f"--checkpoint.dirpath={state}",
            "--trainer.callbacks+=lmsleep.training.LearningCurve",
            f"--trainer.callbacks.path={state / 'curve.csv'}",
            *([] if sys.stderr.isatty() else unattended),
            *([f"--ckpt_path={state / 'last.ckpt'}"] if (state / "last.ckpt").exists() else []),
        ]
    )
    made_with = {"hardware": hardware(), "torch": torch.__version__, "commit": code}
    record = {"seconds": round(time.time() - started, 1), "args": fit_args, **made_with}
    (state / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(state, out)


def digest(out: Path, fit_args: list[str]) -> str:
    """A name for a run: its place, its arguments, the configuration files among them, their dataset and the code."""
    configs = [Path(a.split("=", 1)[-1]) for a in fit_args if a.endswith(".yaml")]
    package = sorted(Path(lmsleep.__file__).parent.rglob("*"))
    files = [*configs, *(path for path in package if path.suffix in (".py", ".yaml"))]
    overrides = [a.removeprefix("--") for a in fit_args if a.startswith("--data.task.")]
    config = OmegaConf.create(read_config(configs, overrides))
    stored = OmegaConf.select(config, "data.task.init_args.path")
    problems = [Dataset(stored).sha256] if stored and Path(stored).is_dir() else []
    parts = [str(out), *fit_args, *(f.read_text() for f in files), *problems]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
