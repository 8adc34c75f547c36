"""Folders appear whole or not at all."""

import errno
import os

import pytest

from balora.errors import StorageError
from balora.models.folders import new_folder


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def fill(target, text, *, failure=None, **options):
    with new_folder(target, **options) as folder:
        (folder / "file").write_text(text)
        if failure is not None:
            raise failure


def test_folder_appears_at_the_end_with_its_parents(tmp_path):
    target = tmp_path / "a" / "b"
    with new_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("text")
        assert not target.exists()
    assert (target / "inner" / "file").read_text() == "text"
    assert names(tmp_path / "a") == ["b"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o777 & ~umask


def test_failure_leaves_nothing_new_and_keeps_what_stood(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(RuntimeError, match="stop"):
        fill(target, "half", failure=RuntimeError("stop"))
    assert names(tmp_path) == []
    fill(target, "old")
    with pytest.raises(KeyboardInterrupt):
        fill(target, "half", replace=True, failure=KeyboardInterrupt())
    assert (target / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_replacing_is_asked_for(tmp_path):
    target = tmp_path / "out"
    fill(target, "old")
    with pytest.raises(FileExistsError):
        fill(target, "new")
    assert (target / "file").read_text() == "old"
    fill(target, "new", replace=True)
    assert (target / "file").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_is_no_obstacle(tmp_path):
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_full_disk_and_read_only_folder_are_storage_errors(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="out: the folder cannot be written: No space left on device"):
        fill(tmp_path / "out", "half", failure=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert names(tmp_path) == []

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.mkdtemp", read_only)
    with pytest.raises(StorageError, match="out: the folder cannot be made: Read-only file system"):
        fill(tmp_path / "out", "new")
