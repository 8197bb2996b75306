"""A results folder for the report, written out here."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from lmsleep.figures.report import main

PAPER_VALUES = Path(__file__).parents[2] / "docs" / "paper_values.csv"


def svg(width, height):
    """A picture as Matplotlib writes it: a white page, a black line, letters that are used by name."""
    return f'''<?xml version="1.0"?>
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}">
 <metadata><rdf:RDF xmlns:rdf="http://www.w3.org/"/></metadata>
 <defs><style type="text/css">*{{stroke-linejoin: round}}</style></defs>
 <g id="figure_1"><path d="M 0 0" style="fill: #ffffff"/><defs><path id="N"/></defs><use xlink:href="#N"/>
 <path d="M 0 0" clip-path="url(#p1)" style="stroke: #000000"/><clipPath id="p1"><rect x="0"/></clipPath></g>
</svg>
'''


def record(n_passes, value, low=None, high=None, **more):
    return {"n_passes": n_passes, "value": value, "low": low, "high": high, "n": 1 if low is None else 3} | more


FIG2B = {
    "test_exact": [
        record(1, 0.5, 0.4, 0.6, wilson_low=0.45, wilson_high=0.55, answers=300),
        record(4, 0.9, 0.85, 0.95, wilson_low=0.87, wilson_high=0.93, answers=300),
    ],
    "difference": [record(4, 0.4, 0.31, 0.49, base=1)],
    "overall": [record(2, -0.2, -0.3, -0.1, base=1), record(4, 0.4, 0.31, 0.49, base=1)],
}


@pytest.fixture
def results(tmp_path):
    """Figure 2b with everything, figure 4a with one seed and a wide picture, controls; the others missing."""
    folder = tmp_path / "results"
    folder.mkdir()
    by_op = [record(n, 0.5, slice=op, wilson_low=0.4, wilson_high=0.6, answers=90) for op in (1, 10) for n in (1, 4)]
    fig4a = {
        "test_exact": by_op,
        "difference": [record(4, 0.0, base=1, slice=op) for op in (1, 10)],
        "overall": [record(4, 0.1, base=1)],
    }
    controls = {
        "controls": [
            {"figure": "fig2b", "n_passes": n, "metric": metric, "value": value}
            for n in (1, 4)
            for metric, value in (("test_exact", 0.75), ("cut_exact", 0.125))
        ]
    }
    for name, numbers, size in (("fig2b", FIG2B, (64, 40)), ("fig4a", fig4a, (90, 30)), ("controls", controls, (9, 9))):
        (folder / f"{name}.json").write_text(json.dumps(numbers))
        (folder / f"{name}.svg").write_text(svg(*size))
    rows = ["figure,model,n_passes,seed,slice,tokens,metric,value"]
    rows += [f"fig2b,AG,{n},{seed},5,3328000,test_exact,0.5" for n in (1, 4) for seed in (0, 1, 2)]
    (folder / "fig2b.csv").write_text("\n".join(rows) + "\n")
    meta = {"runs": 6, "hardware": ["x86_64 CPU, <2> cores"], "torch": ["2.13.0"], "commit": ["0123456789abcdef+"]}
    (folder / "fig2b.meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture
def write_report(tmp_path, results):
    """write_report(*scales): the text of the page, each scale with the same results."""

    def write_report(*scales):
        site, out = tmp_path / "site", tmp_path / "out" / "report.html"
        site.mkdir(exist_ok=True)
        for scale in scales or ["mini"]:
            if not (site / scale).exists():
                (site / scale).symlink_to(results)
        main(list(scales) or ["mini"], site, out, PAPER_VALUES)
        return out.read_text(encoding="utf-8")

    return write_report


@pytest.fixture
def saved_run(tmp_path):
    """saved_run(name, model, task, **sleeps): the folder of a finished run with this model, as the stages read it."""

    def saved_run(name, model, task, seed=0, **sleeps):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        states = {f"model.{key}": value for key, value in model.state_dict().items()}
        content = {"model_config": model.config.to_dict(), "state_dict": states, "sleep": sleeps}
        torch.save(content, folder / "last.ckpt")
        fields = {key: value for key, value in vars(task).items() if not key.startswith("_")}
        config = {
            "model": {"model": {"pattern": model.config.pattern}},
            "data": {
                "task": {"class_path": f"lmsleep.tasks.{type(task).__name__}", "init_args": fields},
                "seed": seed,
                "batch_size": 16,
            },
            "sleep": {"n_passes": 1} | sleeps,
            "trainer": {},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "curve.csv").write_text("step,tokens,exact\n10,1000,0.5\n")
        return folder

    return saved_run
