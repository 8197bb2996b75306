"""Reading a configuration as the command line does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def read_config(paths: Sequence[Path | str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Later files and `key.sub=value` overrides win, as on the command line."""
    merged = OmegaConf.merge(*(OmegaConf.load(path) for path in paths), OmegaConf.from_dotlist(list(overrides)))
    return OmegaConf.to_container(merged, resolve=True)  # pyright: ignore[reportReturnType]
