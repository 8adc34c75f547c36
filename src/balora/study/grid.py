"""From a study's configuration to its jobs: which recipes are run, and what makes two jobs the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from balora.benchmarks import benchmarks
from balora.config import (
    BenchmarkChoice,
    PluginChoice,
    Recipe,
    StudyConfig,
    StudyMethod,
    content_hash,
    explain,
    merged,
)
from balora.errors import ConfigError
from balora.methods import methods
from balora.regularizers import regularizers

Role = Literal["grid", "full", "base", "ablation"]
_HASHED_WHOLE = (
    256 * 2**20
)  # bytes; larger files are told apart by size and time, as hashing them would take minutes


@dataclass(frozen=True)
class Job:
    """One train-then-audit job. It knows nothing of the others.

    ``recipe`` is what is trained; for the base anchor it only says which model and data the audit is about.
    """

    key: str  # equal keys: equal results; the store remembers finished jobs by it
    name: str  # folder name, unique in the study
    label: str  # name in tables and plots
    role: Role
    rank: int | None
    seed: int
    recipe: Recipe
    benchmarks: tuple[BenchmarkChoice, ...]


def plan(config: StudyConfig) -> list[Job]:
    """All jobs of a study, anchors first, each validated whole before anything runs.

    Raises:
        ConfigError: a recipe does not validate, a name is unknown, or two jobs would be the same.
    """
    for choice in config.benchmarks:
        PluginChoice(name=choice.name, options=choice.options).resolve(benchmarks, f"benchmarks.{choice.id}")
    identifiers = [choice.id for choice in config.benchmarks]
    if twice := {i for i in identifiers if identifiers.count(i) > 1}:
        raise ConfigError(
            f"benchmarks: the id {sorted(twice)[0]!r} stands twice; give each an 'id' of its own"
        )
    for field in ("bias", "quality"):
        path = getattr(config.question, field)
        if path.partition("/")[0] not in identifiers:
            raise ConfigError(
                f"question.{field}: {path!r} must begin with a benchmark's id and '/' (ids: {', '.join(identifiers)})"
            )
    planner = _Planner(config)
    jobs = list(planner.jobs())
    names = [job.name for job in jobs]
    if twice := {n for n in names if names.count(n) > 1}:
        raise ConfigError(f"two jobs are both {sorted(twice)[0]!r}: give one of the methods another 'label'")
    return jobs


class _Planner:
    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.inputs = _fingerprints(config)

    def jobs(self) -> Iterable[Job]:
        config = self.config
        full = StudyMethod(
            method=PluginChoice(name="full"),
            label="full",
            training=config.full if isinstance(config.full, dict) else {},
        )
        if config.base:
            for seed in config.seeds:
                yield self._job(
                    "base", StudyMethod(method=PluginChoice(name="full"), label="base"), None, seed
                )
        if config.full:
            for seed in config.seeds:
                yield self._job("full", full, None, seed)
        for role, lines in (("grid", config.methods), ("ablation", config.ablations)):
            for line in lines:
                has_rank = methods.get(line.method.name).has_rank
                for rank in (line.ranks or config.ranks) if has_rank else [None]:
                    for seed in line.seeds or config.seeds:
                        yield self._job(role, line, rank, seed)  # type: ignore[arg-type]

    def _job(self, role: Role, line: StudyMethod, rank: int | None, seed: int) -> Job:
        name = "-".join([_slug(line.label), *([f"r{rank}"] if rank is not None else []), f"s{seed}"])
        if role == "ablation":
            name = f"ablation-{name}"
        recipe = self._recipe(line, rank, seed, name)
        trained = None if role == "base" else recipe.model_dump(mode="json", exclude={"output"})
        key = content_hash(
            {
                "trained": trained,
                "model": recipe.model.model_dump(mode="json"),
                "seed": seed,
                "benchmarks": [c.model_dump(mode="json") for c in self.config.benchmarks],
                "inputs": self.inputs,
                "role": "base" if role == "base" else "trained",
            }
        )
        return Job(key, name, line.label, role, rank, seed, recipe, tuple(self.config.benchmarks))

    def _recipe(self, line: StudyMethod, rank: int | None, seed: int, name: str) -> Recipe:
        raw = dict(self.config.recipe)
        where = f"study {self.config.name!r}, {name}"
        for key in ("method", "rank", "seed", "output"):
            if key in raw:
                raise ConfigError(
                    f"recipe.{key}: the study sets this for each job; leave it out of the recipe"
                )
        raw["method"] = line.method.model_dump()
        raw["seed"] = seed
        raw["output"] = str(Path(self.config.output) / "jobs" / name)
        raw["regularizers"] = merged(raw.get("regularizers") or {}, line.regularizers)
        raw["training"] = merged(raw.get("training") or {}, line.training)
        if rank is not None:
            raw["rank"] = rank
        try:
            recipe = Recipe.model_validate(raw)
        except ValidationError as error:
            raise ConfigError(explain(error, Recipe, prefix=where)) from None
        recipe.method.resolve(methods, f"{where}: method")
        for key, options in recipe.regularizers.items():
            if options is not None:
                PluginChoice(name=key, options=options).resolve(regularizers, f"{where}: regularizers")
        return recipe


def fingerprint(path: Path) -> str:
    """Content hash of a file, or of a folder's files; equal content, equal fingerprint."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(path)).encode() + b"\0")
        stat = file.stat()
        if stat.st_size > _HASHED_WHOLE:
            total.update(f"{stat.st_size}:{stat.st_mtime_ns}".encode())
        else:
            with file.open("rb") as handle:
                total.update(hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()


def _fingerprints(config: StudyConfig) -> dict[str, str]:
    """Fingerprints of every file and folder that the study names, so that changed data is never taken for the same."""
    found: dict[str, str] = {}

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, str) and "/" in value and value not in found and Path(value).exists():
            found[value] = fingerprint(Path(value))

    walk(config.recipe)
    walk([choice.options for choice in config.benchmarks])
    walk([line.model_dump() for line in (*config.methods, *config.ablations)])
    return found


def _slug(label: str) -> str:
    """A label as a folder name."""
    return "".join(
        c if c.isalnum() or c in "._-" else "-" for c in label.replace(" + ", "+").replace("+", "-")
    )
