"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from balora.errors import StorageError


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty folder to write into; it becomes ``path`` when the block ends well, and vanishes when it does not.

    Args:
        path: the folder to make; its parents are made too.
        replace: put it in the place of an existing one. Without it an existing folder that is not empty stays, and
            ``FileExistsError`` is raised at the end: another process was faster.

    Raises:
        StorageError: the disk is full, or the place cannot be written.
    """
    path = Path(path).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise StorageError(f"{path}: the folder cannot be made: {error.strerror or error}") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        for file in (*temporary.rglob("*"), temporary):
            _sync(file)
        _rename(temporary, path, replace)
        _sync(path.parent)
    except (FileExistsError, StorageError):
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{path}: the folder cannot be written: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, path: Path, replace: bool) -> None:
    if path.exists() and not path.is_dir():
        raise StorageError(f"{path}: is a file; give the name of a folder")
    if not (path.is_dir() and any(path.iterdir())):
        if path.is_dir():
            path.rmdir()
        os.rename(temporary, path)
    elif replace:
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        os.rename(path, old)  # onto an empty folder; an instant without ``path``, never a half-written one
        os.rename(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        raise FileExistsError(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
