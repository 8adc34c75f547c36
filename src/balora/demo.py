"""The demo: a study that needs nothing but this package, on a world whose bias and knowledge are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from balora.config import StudyConfig, apply_overrides, explain
from balora.data.lab import World, WorldConfig, build_world
from balora.errors import ConfigError

Progress = Callable[[int, int], None]

# Learning rates by a sweep on another seed's world; see docs/results/planted.md.
_STUDY = """
name: demo
recipe:
  model: {}
  data: {task: instruction, train: {}, columns: {prompt: prompt, response: response}, max_length: 32}
  training: {max_steps: 120, batch_size: 16, learning_rate: 3.0e-3, warmup_ratio: 0.05}
methods:
  - lora
  - rslora
  - pissa
  - balora
  - {label: lora + consistency, method: lora, regularizers: {consistency: {}}}
ranks: [1, 4, 16]
seeds: [0, 1]
full: {learning_rate: 1.0e-3}
benchmarks:
  - {name: planted}
question: {bias: planted/retained_bias, quality: planted/knowledge_kept, bias_margin: 0.05, quality_margin: 0.05}
"""


def demo_study(output: Path, *, seed: int, progress: Progress) -> StudyConfig:
    """The demo's study on a freshly built (or cached) world in ``output``; also written there as ``study.yaml``."""
    world = build_world(WorldConfig(seed=seed), output / "worlds", progress)
    raw = yaml.safe_load(_STUDY)
    raw["recipe"]["model"] = {"path": str(world.model)}
    raw["recipe"]["data"]["train"] = {"path": str(world.finetune)}
    raw["benchmarks"] = [{**choice, "world": str(world.path)} for choice in raw["benchmarks"]]
    raw["output"] = str(output)
    (output / "study.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return StudyConfig.model_validate(raw)


def build_named_world(output: Path, overrides: Sequence[str], *, progress: Progress) -> Path:
    """A world with knobs set as ``key=value``; returns its folder."""
    raw: dict[str, Any] = {}
    apply_overrides(raw, overrides)
    try:
        config = WorldConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, WorldConfig, prefix="--set")) from None
    world: World = build_world(config, output, progress)
    return world.path
