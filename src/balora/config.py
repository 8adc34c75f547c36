"""Recipes and studies: the one source of YAML keys, ``--set`` flags and the configuration docs.

Every model is strict: an unknown key, a wrong type or a value out of range is a ``ConfigError`` that names the file,
the line, the field, the value received, what is allowed, and the nearest known key. Field descriptions are the
documentation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from balora.errors import ConfigError, unknown_name
from balora.plugins import P, PluginOptions, Registry

ModelKind = Literal["causal", "masked", "classifier", "encoder", "seq2seq"]


class Config(BaseModel):
    """Base of every configuration model: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def digest(self) -> str:
        """Hex SHA-256 over the canonical JSON of this configuration: equal configurations, equal digest."""
        return content_hash(self.model_dump(mode="json"))


class PluginChoice(Config):
    """A plugin by name with its own options: ``lora`` or ``{name: lora, dropout: 0.1}``."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "options" not in value:
            rest = {k: v for k, v in value.items() if k != "name"}
            return {"name": value.get("name"), "options": rest}
        return value

    def resolve(self, registry: Registry[P], where: str) -> tuple[type[P], PluginOptions]:
        """The plugin's class and its validated options; ``where`` is the field named in errors."""
        cls = registry.get(self.name)
        try:
            return cls, cls.Options.model_validate(self.options)
        except ValidationError as error:
            raise ConfigError(explain(error, cls.Options, prefix=f"{where} ({self.name})")) from None


class ModelConfig(Config):
    """The pre-trained model."""

    path: str = Field(description="folder of a transformers model, or a hub name")
    revision: str | None = Field(
        default=None, description="hub revision; pin it for work that must be repeated"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="dtype of the frozen base"
    )
    trust_remote_code: bool = Field(
        default=False, description="run code that comes with the model; off unless trusted"
    )


class DataSource(Config):
    """Rows from a file, a local ``datasets`` folder, or a hub name."""

    path: str = Field(
        description="JSONL, CSV, TSV or Parquet file, a folder saved by datasets, or a hub name"
    )
    split: str = Field(default="train", description="split of a datasets folder or hub dataset")
    part: Literal["all", "train", "holdout"] = Field(
        default="all",
        description="which side of the hold-out split to take; equal texts fall on the same side",
    )
    holdout: float = Field(default=0.2, gt=0, lt=1, description="share of rows held out, by content hash")
    limit: int | None = Field(
        default=None, ge=1, description="take at most this many rows, drawn by sample_seed"
    )
    sample_seed: int = Field(
        default=0, description="seed of that draw; the same rows for every training seed"
    )
    max_bad_rows: float = Field(
        default=0.01, ge=0, le=1, description="share of bad rows above which the run stops"
    )


class Columns(Config):
    """Names of the columns that are read."""

    text: str = "text"
    label: str = "label"
    groups: list[str] = Field(default_factory=list, description="columns that hold group memberships")
    prompt: str = "prompt"
    response: str = "response"


class DataConfig(Config):
    """Training data and how it becomes tokens."""

    task: Literal["text-classification", "instruction", "text"]
    train: DataSource
    columns: Columns = Columns()
    labels: list[str] | None = Field(
        default=None, description="class names in order of their ids; default: 0..max of an integer column"
    )
    max_length: int = Field(default=512, ge=2, description="tokens kept of one row")
    chat_template: bool = Field(
        default=True, description="instruction: use the tokenizer's chat template if any"
    )


class TrainingConfig(Config):
    """The optimizer's side. Defaults follow the published BA-LoRA settings where they name one."""

    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1, description="optimizer steps; overrides epochs")
    batch_size: int = Field(default=8, ge=1, description="rows per device and micro-batch")
    gradient_accumulation: int = Field(default=1, ge=1, description="micro-batches per optimizer step")
    learning_rate: float = Field(default=2e-5, gt=0)
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="autocast precision")
    gradient_checkpointing: Literal["off", "reentrant", "non-reentrant"] = "off"
    group_by_length: bool = Field(
        default=True, description="batch rows of similar length: less padding, same rows"
    )
    save_steps: int | None = Field(
        default=None, ge=1, description="steps between checkpoints; default: 10 a run"
    )
    keep_checkpoints: int = Field(default=2, ge=1)
    log_steps: int = Field(default=10, ge=1)


class Recipe(Config):
    """One training run, whole."""

    model: ModelConfig
    data: DataConfig
    method: PluginChoice = PluginChoice(name="balora")
    rank: int = Field(default=16, ge=1, description="adapter rank; ignored by methods that have none")
    regularizers: dict[str, dict[str, Any] | None] = Field(
        default_factory=dict,
        description="regularizer -> its options, merged over the method's preset; null drops one",
    )
    teacher: ModelConfig | None = Field(
        default=None,
        description="another teacher than the untouched base, such as a classifier whose head was trained already",
    )
    training: TrainingConfig = TrainingConfig()
    output: str = Field(description="folder for the adapter, its checkpoints and its log")
    seed: int = Field(default=0, ge=0)


class BenchmarkChoice(Config):
    """A benchmark with its options. ``id`` tells two uses of one benchmark apart (default: its name)."""

    name: str
    id: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$")
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if isinstance(value, Mapping) and "options" not in value:
            rest = {k: v for k, v in value.items() if k not in ("name", "id")}
            value = {"name": value.get("name"), "id": value.get("id", ""), "options": rest}
        if isinstance(value, Mapping) and not value.get("id"):
            value = {**value, "id": value.get("name")}
        return value


class StudyMethod(Config):
    """One line of a study: a method with what it carries."""

    method: PluginChoice
    label: str = Field(default="", description="name in tables and plots; default: the method's name")
    regularizers: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
    ranks: list[int] | None = Field(default=None, description="instead of the study's ranks")
    seeds: list[int] | None = Field(default=None, description="instead of the study's seeds")
    training: dict[str, Any] = Field(
        default_factory=dict, description="training fields that differ for this method"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"method": value, "label": value}
        if isinstance(value, Mapping) and "method" in value and not value.get("label"):
            method = value["method"]
            return {**value, "label": method if isinstance(method, str) else dict(method).get("name", "")}
        return value


class Question(Config):
    """What the study's report puts on its axes, and how much worse counts as worse."""

    bias: str = Field(description="'<benchmark id>/<measurement key>' of the bias to plot against rank")
    quality: str = Field(description="the same for task quality")
    bias_margin: float = Field(
        default=0.05, gt=0, description="largest harmless excess over full fine-tuning"
    )
    quality_margin: float = Field(default=0.02, gt=0, description="largest harmless loss to full fine-tuning")


class StudyConfig(Config):
    """A grid of methods x ranks x seeds, with full fine-tuning and the untouched base as anchors."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    recipe: dict[str, Any] = Field(
        description="a recipe without method, rank, seed and output: the study fills them"
    )
    methods: list[StudyMethod] = Field(min_length=1)
    ranks: list[int] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    full: bool | dict[str, Any] = Field(
        default=True,
        description="anchor: full fine-tuning; a mapping gives training fields that differ for it",
    )
    base: bool = Field(default=True, description="anchor: the untouched base model")
    ablations: list[StudyMethod] = Field(
        default_factory=list, description="extra lines that the report sets in a table of their own"
    )
    benchmarks: list[BenchmarkChoice] = Field(min_length=1)
    question: Question
    output: str
    workers: int = Field(default=1, ge=1, description="jobs run side by side, each in a process of its own")


C = TypeVar("C", bound=Config)


def load(cls: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """A configuration from a YAML file with ``key.sub=value`` overrides; ``ConfigError`` says where and why.

    ``${NAME}`` in a text stands for the environment variable, so that one file serves several machines.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, got {type(raw).__name__}")
    apply_overrides(raw, overrides)
    raw = _expanded(raw, (), str(path))
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, cls, prefix=str(path), lines=_key_lines(text))) from None


def explain(
    error: ValidationError,
    cls: type[BaseModel],
    *,
    prefix: str,
    lines: Mapping[tuple[str, ...], int] | None = None,
) -> str:
    """A pydantic error as short lines: where, what was received, what is allowed, and the fix."""
    found = []
    for item in error.errors(include_url=False):
        location = tuple(str(part) for part in item["loc"])
        line = _nearest_line(location, lines or {})
        where = f"{prefix}:{line}" if line else prefix
        field = ".".join(location) or "(all)"
        if item["type"] == "extra_forbidden":
            siblings = _fields_at(cls, location[:-1])
            found.append(f"{where}: {field}: {unknown_name('key', location[-1], siblings)}")
        elif item["type"] == "missing":
            found.append(f"{where}: {field}: this key is required and missing")
        else:
            found.append(f"{where}: {field}: {item['msg']}; got {item['input']!r}")
    return "\n".join(found)


def content_hash(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``, mappings merged key by key."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set each ``key.sub=value`` in ``raw``; the value is read as YAML."""
    for item in overrides:
        _override(raw, item)


def _override(raw: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {item!r}: must be key=value, such as training.learning_rate=1e-4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value: {error}") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text; everyone who types it means the number
        with contextlib.suppress(ValueError):
            value = float(value)
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if isinstance(child, str):  # a plugin given by its bare name
            child = node[parent] = {"name": child}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {parent!r} holds {child!r}, which has no keys")
        node = child
    node[last] = value


def _expanded(value: Any, location: tuple[str, ...], prefix: str) -> Any:
    """``value`` with the environment's variables in place of ``${NAME}``."""
    if isinstance(value, dict):
        return {key: _expanded(item, (*location, str(key)), prefix) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, (*location, str(index)), prefix) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(
                f"{prefix}: {'.'.join(location)}: the environment variable {match[1]} is not set; got {value!r}; "
                f"set it, or override the key with --set"
            )
        return found

    return re.sub(r"\$\{(\w+)\}", variable, value)


def _key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Line number (from 1) of every key path of a YAML text."""
    lines: dict[tuple[str, ...], int] = {}

    def walk(node: yaml.Node | None, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                lines[(*path, str(key.value))] = key.start_mark.line + 1
                walk(value, (*path, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                lines[(*path, str(index))] = value.start_mark.line + 1
                walk(value, (*path, str(index)))

    walk(yaml.compose(text, Loader=yaml.SafeLoader), ())
    return lines


def _nearest_line(location: tuple[str, ...], lines: Mapping[tuple[str, ...], int]) -> int | None:
    while location:
        if location in lines:
            return lines[location]
        location = location[:-1]
    return None


def _fields_at(cls: type[BaseModel], location: tuple[str, ...]) -> list[str]:
    """Field names of the model that a validation error's parent location points to."""
    current: Any = cls
    for part in location:
        fields = getattr(current, "model_fields", {})
        if part in fields:
            current = fields[part].annotation
        candidates = [current, *getattr(current, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), current)
    return list(getattr(current, "model_fields", {}))
