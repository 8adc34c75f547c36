"""The output folder of one run: whose it is, who is writing to it, and what stands where.

::

    recipe.yaml       the whole configuration
    run.json          what identifies the run: configuration, training data, package versions
    train_log.jsonl   one line a logging step: every term of the loss with its weight
    adapter/          what was trained, for the original base model
    result.json       written last: a folder with it is finished
    checkpoints/      checkpoint-N, each whole
    work/             the initial adapter, so that a resumed run starts from the same bits
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from balora.config import Recipe
from balora.errors import CheckpointError
from balora.train.checkpoint import checkpoints, clear_staging, storage_errors, write_text

# Fields that do not change what is trained: a run may be continued with other values.
_HOUSEKEEPING = (
    ("output",),
    ("training", "save_steps"),
    ("training", "keep_checkpoints"),
    ("training", "log_steps"),
)
_PACKAGES = ("balora", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors")


class RunFolder:
    """Paths of one run's output."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.identity = root / "run.json"
        self.log = root / "train_log.jsonl"
        self.adapter = root / "adapter"
        self.result = root / "result.json"
        self.checkpoints = root / "checkpoints"
        self.work = root / "work"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out. The lock dies with its process, so none is ever stale.

        Raises:
            StorageError: the folder cannot be made or written.
            CheckpointError: another process is at work in it.
        """
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise CheckpointError(
                    f"{self.root}: another process is training into this folder; wait for it, stop it, "
                    "or choose another output"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def claim(self, recipe: Recipe) -> None:
        """Make the folder this recipe's, or check that it already is; then clear what a crash left behind.

        Raises:
            CheckpointError: the folder belongs to another configuration or to other training data.
        """
        ours = {
            "recipe": identifying(recipe),
            "data": fingerprint(recipe.data.train.path),
            "versions": {name: _version(name) for name in _PACKAGES},
        }
        finished = [path for path in (self.result, self.adapter) if path.exists()]
        finished += checkpoints(self.checkpoints)
        if not finished:  # whatever an earlier attempt wanted, it failed before there was anything to keep
            self._begin(recipe, ours)
        elif self.identity.exists():
            self._compare(ours)
        else:
            raise CheckpointError(
                f"{self.root}: holds {', '.join(path.name for path in finished)} but no {self.identity.name}, so whose "
                "they are cannot be told; choose another output, or delete the folder"
            )
        clear_staging(self.root)
        clear_staging(self.checkpoints)

    def _begin(self, recipe: Recipe, ours: Mapping[str, Any]) -> None:
        identity = json.dumps(ours, indent=1, sort_keys=True)
        with storage_errors(self.root):
            if self.identity.exists() and self.identity.read_text(encoding="utf-8") == identity:
                return
            if self.work.exists():
                shutil.rmtree(self.work)
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_text(self.recipe, text)
        write_text(self.identity, identity)

    def _compare(self, ours: Mapping[str, Any]) -> None:
        try:
            theirs = json.loads(self.identity.read_text(encoding="utf-8"))
            recipe, data = theirs["recipe"], theirs["data"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.identity}: cannot be read ({error}); choose another output, or delete the folder"
            ) from None
        if lines := list(_differences(ours["recipe"], recipe)):
            raise CheckpointError(
                f"{self.root}: belongs to another configuration:\n  "
                + "\n  ".join(lines)
                + "\nset these fields back, choose another output, or delete the folder to start again"
            )
        if ours["data"] != data:
            raise CheckpointError(
                f"{self.root}: the training data {ours['recipe']['data']['train']['path']} has changed since this run "
                "began; put the old data back, choose another output, or delete the folder to start again"
            )


def identifying(recipe: Recipe) -> dict[str, Any]:
    """The recipe without the fields that do not change what is trained."""
    values = recipe.model_dump(mode="json")
    for *parents, last in _HOUSEKEEPING:
        node = values
        for parent in parents:
            node = node[parent]
        del node[last]
    return values


def fingerprint(source: str) -> str | None:
    """SHA-256 over the content of a file or of all files of a folder; None for a hub name."""
    path = Path(source)
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted({*ours, *theirs}):
            yield from _differences(ours.get(key), theirs.get(key), f"{where}.{key}" if where else key)
    elif ours != theirs:
        yield f"{where}: {theirs!r} there, {ours!r} here"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
