"""Atomic writes, a check of files of `torch.save`, and folders that one process at a time may use."""

import fcntl
import glob
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from lmsleep.checks import ONE_FILE, left_by_run, require


@contextmanager
def atomic_write(path: str | Path, keep: Path | None = None) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it replaces `path` when the block ends and is deleted if the block raises.

    Args:
        keep: a path in the same folder, under which the previous file of `path` is kept.

    Raises:
        ValueError, OSError: as `check_output`; OSError, with the name of `path`, also if the disk is full.
    """
    path = Path(path)
    remove_stale(path)
    with _begin(path, "path") as lock:
        temporary = Path(lock.name)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        mode = temporary.stat().st_mode  # that of any new file: safetensors writes private ones
        try:
            yield temporary
            temporary.chmod(mode)
            # Waits until the content is on the disk: a name that gets there before it would name an empty file.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                keep.unlink(missing_ok=True)
                try:
                    os.link(path, keep)  # not moved: a process killed here must leave a file at `path`
                except OSError:  # a file system without links
                    shutil.copyfile(path, keep)
            temporary.replace(path)
        except OSError as error:
            if error.errno and error.filename in (None, str(temporary), temporary):  # a full disk names no file
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)


def save_text(path: Path, text: str) -> None:
    """Writes a text atomically; makes the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_json(path: Path, values: Any) -> None:
    """Writes values atomically as indented JSON."""
    save_text(path, json.dumps(values, indent=2) + "\n")


def save_csv(path: Path, frame: Any, **options: Any) -> None:
    """Writes a pandas DataFrame atomically as CSV, without its index; `options` as of `to_csv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, **options)


def remove_stale(path: Path) -> None:
    """Removes the temporary files of `atomic_write(path)` whose writers were killed: those that no process locks."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):
        with suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def check_output(path: Path, name: str = "path") -> None:
    """Raises ValueError, which says `name`, unless `path` can be a file: its folder exists, and there is nothing else
    in its place. Raises OSError, with the name of `path`, if it may not be written."""
    with _begin(path, name) as probe:
        Path(probe.name).unlink(missing_ok=True)  # as `remove_stale` of another process takes it for left over


def _begin(path: Path, name: str) -> IO[bytes]:
    """The temporary file of `atomic_write(path)`, new and empty. Raises as `check_output`."""
    require(path.parent.is_dir(), f"{name} must lie in a folder that exists", str(path))
    # Devices and pipes root would replace for the whole machine; a link in /dev may lead to a file, as of an output.
    regular = path.is_file() and os.path.realpath(path.parent) != "/dev"
    require(regular or not path.exists(), f"{name} must be a regular file", str(path))
    try:
        return path.with_name(f".{path.name}.{uuid4().hex[:8]}").open("xb")
    except FileNotFoundError:  # although its folder is there, as in /proc
        raise ValueError(f"{name} must be one that can be written, got {str(path)!r}") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def check_folder(folder: str | Path, name: str = "folder") -> None:
    """Raises ValueError, which says `name`, if `folder` or one of its parents is a file."""
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{name} must be a new or an existing folder, got {str(folder)!r}: {existing} is a file")


def lock_folder(folder: Path) -> IO[bytes]:
    """Locks the folder by a file `.lock` in it, until that is closed or the process ends. Raises ValueError if another
    run holds the lock."""
    file = (folder / ".lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{str(folder)!r} is in use by another run") from None
    except OSError:  # a file system without locks
        pass
    return file


def check_checkpoint_file(path: str | Path, name: str = "checkpoint") -> None:
    """Verifies that `path` is a file of `torch.save`, a zip archive, and its checksums; torch itself verifies none.
    Raises ValueError, which says `name`, if it is no such file, truncated or changed, OSError if it cannot be read."""
    path = Path(path)
    left = left_by_run(path if path.is_dir() else path.parent)
    if path.is_dir():
        one = f"{name} must be one file, as --{ONE_FILE} makes it, and no folder"
        raise ValueError(f"{one}, got {str(path)!r}{left}")
    if not path.exists():
        raise ValueError(f"{name} must be a checkpoint of `lmsleep fit`, but there is no file {str(path)!r}{left}")
    require(path.is_file(), f"{name} must be a regular file", str(path))
    path.open("rb").close()
    reason = "it is no archive of torch.save"
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            reason = damaged and f"{damaged} in it differs from its checksum"
        except Exception as error:  # of a changed directory the module has many kinds
            reason = str(error)
    if reason:
        raise ValueError(f"checkpoint {str(path)!r} is damaged or of another kind: {reason}")
