"""Files that are there whole or not at all, a look at whether they still are, and folders of one process at a time."""

import fcntl
import glob
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from uuid import uuid4


@contextmanager
def atomic_write(path: str | Path, keep: Path | None = None) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends and vanishes if the block raises.

    Args:
        keep: a path beside it, by which the file that was at `path` is then known.

    Raises:
        ValueError: if the folder of `path` does not exist.
        OSError: with the name of `path` if it cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"path must lie in a folder that exists, got {str(path)!r}")
    sweep(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    with temporary.open("xb") as held:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        mode = temporary.stat().st_mode  # that of any new file: safetensors writes private ones
        try:
            yield temporary
            temporary.chmod(mode)
            # Waits until the content is on the disk: a name that gets there before it would name an empty file.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                _keep(path, keep)
            temporary.replace(path)
        except OSError as error:
            if error.errno and error.filename in (None, str(temporary), temporary):  # a full disk names no file
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)


def save_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_json(path: Path, values: Any) -> None:
    """The same of values as JSON for people."""
    save_text(path, json.dumps(values, indent=2) + "\n")


def save_csv(path: Path, frame: Any, float_format: str | None = None) -> None:
    """The same of a pandas DataFrame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=float_format)


def _keep(path: Path, keep: Path) -> None:
    """Gives a file a second name. It is not moved: whoever is killed here leaves a file at `path`."""
    keep.unlink(missing_ok=True)
    try:
        os.link(path, keep)
    except OSError:  # a file system without links
        shutil.copyfile(path, keep)


def sweep(path: Path) -> None:
    """Removes the temporary files that killed writers of `path` left: those that nobody holds."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def check_writable(folder: str | Path) -> None:
    """Makes the folder if there is none; raises OSError if no file can be written in it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def check_free(folder: str | Path) -> None:
    """Raises ValueError if a file is in the place of the folder or of one above it."""
    folder = Path(folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"folder must be a new or an existing folder, got {str(folder)!r}: {there} is a file")


def claim(folder: Path) -> IO[bytes]:
    """A file `.lock` in the folder, which is locked until it is closed or the process ends. Raises ValueError if
    another run has it."""
    file = (folder / ".lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{str(folder)!r} is in use by another run") from None
    except OSError:  # a file system without locks
        pass
    return file


def check_checkpoint_file(path: str | Path) -> None:
    """Reads a file of `torch.save`, which is a zip archive, against the checksums in it: torch itself looks at none.
    Raises ValueError if it is there but cut off, changed, or something else; OSError if it may not be read."""
    if Path(path).is_file():
        Path(path).open("rb").close()
    reason = "it is no archive of torch.save"
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            reason = damaged and f"{damaged} in it differs from its checksum"
        except Exception as error:  # of a changed directory the module has many kinds
            reason = str(error)
    if reason and Path(path).is_file():
        raise ValueError(f"checkpoint {str(path)!r} is damaged or of another kind: {reason}")
