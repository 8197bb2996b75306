"""Rows of Hugging Face datasets: a local table, a folder or a name, by the package `datasets`."""

from glob import glob
from pathlib import Path
from typing import Any

from lmsleep.hub import HUB_NAME, first_line

TABLES = (".parquet", ".arrow")


def open_records(source: str) -> Any:
    """The dataset of `Text.train`, memory-mapped; None: it is a text file, or a pattern of them.

    Args:
        source: .parquet or .arrow files, a folder, or a name on the hub, which has no extension; `:split` behind it
            chooses one, `train` by default.

    Raises:
        ValueError: if it cannot be read, or the package is not installed.
    """
    name, _, split = source.partition(":")
    path, files = Path(name), sorted(glob(name, recursive=True))
    on_hub = not files and not path.suffix and HUB_NAME.fullmatch(name)
    if not (path.suffix in TABLES or path.is_dir() or on_hub):
        return None
    if path.suffix in TABLES and not files:
        return None  # refused as any file is that does not exist
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"{source} needs the package datasets: pip install datasets") from None
    datasets.disable_progress_bars()
    try:
        if path.suffix == ".parquet":
            return datasets.Dataset.from_parquet(files)  # pyright: ignore[reportArgumentType]
        if path.suffix == ".arrow":
            return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(name)
            return found[split or "train"] if isinstance(found, datasets.DatasetDict) else found
        return datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # no network, no such dataset or split, a damaged file: there are many kinds
        raise ValueError(f"{source} cannot be read as a dataset: {first_line(error)}") from None
