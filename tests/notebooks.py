"""Runs the notebooks and keeps their outputs, pictures with few colours.

python -m tests.notebooks                      all of them, some minutes
python -m tests.notebooks notebooks/1_tasks.ipynb
"""

import base64
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDER, WIDTH, COLOURS = Path("notebooks"), 800, 64  # pixels
READERS = "23"  # notebooks that read `results/`; the others write into the folder that they run in


def execute(path: Path, folder: Path) -> "NotebookNode":
    """The notebook with its outputs, run in a folder."""
    import nbformat  # a second, which processes that only collect tests are spared
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": folder}}).execute()
    return notebook


def small(notebook: "NotebookNode") -> "NotebookNode":
    """The notebook without stderr and HTML, its pictures no wider than WIDTH and with COLOURS."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for data in (output.data for output in cell.outputs if "data" in output):
                data.pop("text/html", None)  # the same as text stands beside it
                data |= {"image/png": smaller(data["image/png"])} if "image/png" in data else {}
    return notebook


def smaller(png: str) -> str:
    """A picture in base64."""
    with Image.open(BytesIO(base64.b64decode(png))) as picture, BytesIO() as out:
        whole = picture.convert("RGB")
        whole.thumbnail((WIDTH, WIDTH))
        # Colours of the most different kinds: the most frequent ones would make a red frame brown.
        few = whole.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(out, "PNG", optimize=True)
        return base64.b64encode(out.getvalue()).decode()


def main(paths: list[Path]) -> None:
    import nbformat

    for path in paths:
        with tempfile.TemporaryDirectory() as apart:
            nbformat.write(small(execute(path, FOLDER if path.stem[0] in READERS else Path(apart))), path)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")))
