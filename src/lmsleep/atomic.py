"""Files that are there whole or not at all, and a look at whether they still are."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends and vanishes if the block raises.

    Raises:
        ValueError: if the folder of `path` does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"path must lie in a folder that exists, got {str(path)!r}")
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    temporary.touch()
    mode = temporary.stat().st_mode  # that of any new file: safetensors writes private ones
    try:
        yield temporary
        temporary.chmod(mode)
        # Waits until the content is on the disk: a name that gets there before it would name an empty file.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_checkpoint_file(path: str | Path) -> None:
    """Reads a file of `torch.save`, which is a zip archive, against the checksums in it: torch itself looks at none.

    Raises:
        ValueError: if it is there but cut off, changed, or something else.
    """
    reason = "it is no archive of torch.save"
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            reason = damaged and f"{damaged} in it differs from its checksum"
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            reason = str(error)
    if reason and Path(path).is_file():
        raise ValueError(f"checkpoint {str(path)!r} is damaged or of another kind: {reason}")
