"""What a run ran on: every fact from where it can be checked."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from balora import environment
from balora.environment import describe, git_commit


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_versions_are_those_installed():
    found = describe()
    assert found["python"] == platform.python_version()
    for package in ("balora", "torch", "transformers", "peft", "numpy", "scipy"):
        assert found[package] == version(package)
    assert str(os.cpu_count()) in found["processor"]
    assert all(isinstance(value, str) and value for value in found.values())


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "_PACKAGES", ("balora", "no-such-package"))
    assert "no-such-package" not in describe()
    assert "balora" in describe()


def test_the_commit_is_the_work_folders(repository: Path):
    head = git(repository, "rev-parse", "HEAD")
    assert git_commit() == head
    assert describe()["git_commit"] == head
    git(repository, "tag", "v1")
    assert git_commit() == head  # the commit itself, not a name for it


def test_changed_files_make_the_commit_dirty(repository: Path):
    (repository / "file").write_text("b")
    assert git_commit() == git(repository, "rev-parse", "HEAD") + "-dirty"


def test_outside_a_repository_or_without_git_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_commit() is None
    assert "git_commit" not in describe()
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_the_processor_has_a_name_without_proc(monkeypatch: pytest.MonkeyPatch):
    def missing(*arguments: object, **options: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    assert environment._processor() == (platform.processor() or platform.machine())
