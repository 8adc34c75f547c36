"""What a study says: summaries over seeds, comparisons with full fine-tuning, Pareto front, recommended rank.

All comparisons are made on the distance of a measurement to its ideal value, so that "worse" means the same for every
metric. Across seeds: mean and t-interval; comparisons by Welch's interval. Nothing is ranked on overlapping intervals.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from balora.config import Question, StudyConfig
from balora.errors import ConfigError
from balora.results import Measurement, find
from balora.stats import holm, non_inferiority_seeds, rank_trend, t_interval, welch_interval
from balora.store import Run, Study

Verdict = Literal["as good", "worse", "not shown"]
COSTS = {  # key in a run's cost -> how axes and tables call it, and the factor to that unit
    "trainable_parameters": ("trainable parameters", 1.0),
    "train_seconds": ("training time (s)", 1.0),
    "peak_memory_bytes": ("peak memory (MiB)", 1 / 2**20),
}


@dataclass(frozen=True)
class Summary:
    """One quantity over a point's seeds. ``low`` and ``high`` are the 95 % t-interval, None with fewer than 2 seeds."""

    values: dict[int, float]  # seed -> value; a seed without a value is missing here and named in `missing`
    mean: float | None
    low: float | None
    high: float | None
    ideal: float | None
    missing: dict[int, str] = field(default_factory=dict)  # seed -> why it has no value
    note: str | None = None

    def distances(self) -> list[float]:
        """Per seed, how far the value is from the ideal (0 = perfect)."""
        ideal = self.ideal
        return [] if ideal is None else [abs(v - ideal) for v in self.values.values()]


@dataclass(frozen=True)
class Comparison:
    """A point against full fine-tuning, in distance to the ideal (positive difference: worse)."""

    verdict: Verdict
    difference: float | None
    low: float | None
    high: float | None
    margin: float
    reason: str


@dataclass(frozen=True)
class Point:
    """All seeds of one method at one rank."""

    label: str
    role: str
    method: str | None
    rank: int | None
    bias: Summary
    quality: Summary
    cost: dict[str, Summary]
    headline: dict[str, Summary]  # '<benchmark id>/<key>' -> summary, for the tables
    layers: dict[str, list[tuple[int, float]]]  # '<benchmark id>/<metric>' -> (layer, mean over seeds)
    bias_against_full: Comparison | None = None
    quality_against_full: Comparison | None = None
    pareto: tuple[str, ...] = ()  # costs for which the point is on the front of bias against cost

    @property
    def name(self) -> str:
        return self.label if self.rank is None else f"{self.label}, rank {self.rank}"


@dataclass(frozen=True)
class Trend:
    """Whether bias or quality moves with rank for one method."""

    label: str
    quantity: str
    rho: float | None
    p_value: float | None
    p_holm: float | None
    reason: str | None


@dataclass(frozen=True)
class Recommendation:
    """The smallest rank of a method that is not significantly worse than full fine-tuning, or why there is none."""

    label: str
    rank: int | None
    strength: Literal["shown as good", "not shown worse", "none"]
    reason: str


@dataclass(frozen=True)
class StudyReport:
    """Everything the report shows, before it is text or pictures."""

    name: str
    question: Question
    config: dict[str, Any]
    environment: dict[str, str]
    finished_at: str
    seeds: list[int]
    points: list[Point]  # grid and anchors
    ablations: list[Point]
    trends: list[Trend]
    recommendations: list[Recommendation]
    headers: dict[str, dict[str, str]]  # benchmark id -> header
    notes: list[str]
    failures: dict[str, str]  # job -> why it failed

    def point(self, label: str, rank: int | None = None) -> Point | None:
        return next((p for p in self.points if p.label == label and p.rank == rank), None)

    @property
    def grid(self) -> list[Point]:
        return [p for p in self.points if p.role == "grid"]


def analyse(study: Study) -> StudyReport:
    """Summaries and comparisons of a stored study.

    Raises:
        ConfigError: no job finished, or the question names a measurement that no run has.
    """
    config = StudyConfig.model_validate(study.config)
    question = config.question
    finished = [run for run in study.runs if run.status == "finished" and run.version]
    if not finished:
        reasons = "; ".join(sorted({r.error or "" for r in study.runs})) or "nothing has run yet"
        raise ConfigError(
            f"study {study.name!r}: no job has finished, so there is nothing to report ({reasons})"
        )
    for field_name in ("bias", "quality"):
        _check_asked(field_name, getattr(question, field_name), finished)
    keys = _headline_keys(finished, question)
    points = [_point(runs, question, keys) for runs in _by_point(finished).values()]
    full = next((p for p in points if p.role == "full"), None)
    if full is not None:
        points = [_compared(p, full, question) for p in points]
    points = _with_pareto(points)
    grid = [p for p in points if p.role == "grid"]
    return StudyReport(
        name=study.name,
        question=question,
        config=study.config,
        environment=study.environment,
        finished_at=max(r.finished_at for r in study.runs).strftime("%Y-%m-%d %H:%M UTC"),
        seeds=sorted({r.version.seed for r in finished if r.version and r.version.seed is not None}),
        points=[p for p in points if p.role != "ablation"],
        ablations=[p for p in points if p.role == "ablation"],
        trends=_trends(grid),
        recommendations=[recommend(list(line), full) for line in _lines(grid)],
        headers={a.id: a.header for run in finished for a in run.audits},
        notes=sorted({f"{a.id}: {note}" for run in finished for a in run.audits for note in a.notes}),
        failures={r.name: r.error or "" for r in study.runs if r.status == "failed"},
    )


def recommend(line: Sequence[Point], full: Point | None) -> Recommendation:
    """The recommended rank of one method, from its points in order of rank."""
    label = line[0].label
    if full is None:
        return Recommendation(label, None, "none", "the study has no full fine-tuning to compare with")
    ranked = [p for p in line if p.rank is not None and p.bias_against_full and p.quality_against_full]
    if not ranked:
        return Recommendation(label, None, "none", "no rank has both a bias and a quality to compare")

    def both(wanted: Callable[[Verdict], bool]) -> Point | None:
        return next(
            (
                p
                for p in ranked
                if wanted(_verdict(p.bias_against_full)) and wanted(_verdict(p.quality_against_full))
            ),
            None,
        )

    if best := both(lambda v: v == "as good"):
        return Recommendation(
            label,
            best.rank,
            "shown as good",
            f"smallest rank whose bias and quality are both shown to be within the margins of full fine-tuning: "
            f"{_sentence(best)}",
        )
    if best := both(lambda v: v != "worse"):
        return Recommendation(
            label,
            best.rank,
            "not shown worse",
            f"smallest rank that is not significantly worse than full fine-tuning; that it is as good is not shown "
            f"with these seeds: {_sentence(best)}",
        )
    least = min(ranked, key=lambda p: (p.bias_against_full.difference or 0.0) if p.bias_against_full else 0.0)
    return Recommendation(
        label,
        None,
        "none",
        f"every rank is significantly worse than full fine-tuning in bias or quality; nearest in bias is rank "
        f"{least.rank}: {_sentence(least)}",
    )


def _verdict(comparison: Comparison | None) -> Verdict:
    return comparison.verdict if comparison else "not shown"


def _sentence(point: Point) -> str:
    bias, quality = point.bias_against_full, point.quality_against_full
    parts = [f"{what} {c.reason}" for what, c in (("bias", bias), ("quality", quality)) if c]
    return "; ".join(parts)


def _check_asked(field_name: str, path: str, runs: Sequence[Run]) -> None:
    found = [find(run.audits, path) for run in runs]
    if not any(found):
        identifier = path.partition("/")[0]
        known = sorted(
            {f"{a.id}/{m.key}" for r in runs for a in r.audits if a.id == identifier for m in a.measurements}
        )
        there = ", ".join(known[:40]) or "none"
        raise ConfigError(
            f"question.{field_name}: no run has a measurement {path!r} (measured there: {there})"
        )
    if any(m is not None and m.ideal is None for m in found):
        raise ConfigError(
            f"question.{field_name}: {path!r} is a descriptive number without an ideal; choose another"
        )


def _by_point(runs: Iterable[Run]) -> dict[tuple[str, str, int | None], list[Run]]:
    groups: dict[tuple[str, str, int | None], list[Run]] = defaultdict(list)
    for run in runs:
        assert run.version is not None
        groups[(run.role, run.label, run.version.rank)].append(run)
    return groups


def _headline_keys(runs: Sequence[Run], question: Question) -> list[str]:
    """What the tables show: the question first, then what each benchmark calls its headline."""
    from balora.benchmarks import benchmarks

    keys = [question.bias, question.quality]
    for audit in runs[0].audits:
        keys += [f"{audit.id}/{key}" for key in benchmarks.get(audit.benchmark).headline]
    measured = {f"{a.id}/{m.key}" for run in runs for a in run.audits for m in a.measurements}
    return [key for key in dict.fromkeys(keys) if key in measured]


def _point(runs: Sequence[Run], question: Question, keys: Sequence[str]) -> Point:
    version = runs[0].version
    assert version is not None
    return Point(
        label=runs[0].label,
        role=runs[0].role,
        method=version.method,
        rank=version.rank,
        bias=_over_seeds(runs, question.bias),
        quality=_over_seeds(runs, question.quality),
        cost={
            key: _summary(_costs(runs, key), {}, None) for key in COSTS if any(key in r.cost for r in runs)
        },
        headline={key: _over_seeds(runs, key) for key in keys},
        layers=_layers(runs),
    )


def _over_seeds(runs: Sequence[Run], path: str) -> Summary:
    values: dict[int, float] = {}
    missing: dict[int, str] = {}
    ideal: float | None = None
    for run in runs:
        seed = _seed(run)
        found: Measurement | None = find(run.audits, path)
        if found is None:
            missing[seed] = "not measured"
            continue
        ideal = found.ideal
        if found.value is None:
            missing[seed] = found.undefined_reason or "undefined"
        else:
            values[seed] = found.value
    return _summary(values, missing, ideal)


def _summary(values: dict[int, float], missing: dict[int, str], ideal: float | None) -> Summary:
    if not values:
        return Summary({}, None, None, None, ideal, missing, "undefined for every seed")
    estimate = t_interval(list(values.values()))
    low, high = (estimate.interval.low, estimate.interval.high) if estimate.interval else (None, None)
    return Summary(dict(sorted(values.items())), estimate.value, low, high, ideal, missing, estimate.reason)


def _costs(runs: Sequence[Run], key: str) -> dict[int, float]:
    return {_seed(r): r.cost[key] * COSTS[key][1] for r in runs if r.cost.get(key) is not None}


def _seed(run: Run) -> int:
    assert run.version is not None and run.version.seed is not None  # noqa: PT018
    return run.version.seed


def _layers(runs: Sequence[Run]) -> dict[str, list[tuple[int, float]]]:
    """Every metric sliced by layer, as a profile: mean over seeds."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for audit in run.audits:
            for m in audit.measurements:
                if set(m.slice) == {"layer"} and m.value is not None and m.slice["layer"].isdigit():
                    found[f"{audit.id}/{m.metric}"][int(m.slice["layer"])].append(m.value)
    return {
        name: [(layer, sum(v) / len(v)) for layer, v in sorted(profile.items())]
        for name, profile in found.items()
    }


def _compared(point: Point, full: Point, question: Question) -> Point:
    if point is full or point.role == "base":
        return point
    return replace(
        point,
        bias_against_full=compare(point.bias, full.bias, question.bias_margin),
        quality_against_full=compare(point.quality, full.quality, question.quality_margin),
    )


def compare(candidate: Summary, full: Summary, margin: float) -> Comparison:
    """A point's distance to the ideal against full fine-tuning's, over seeds."""
    new, old = candidate.distances(), full.distances()
    if not new or not old:
        return Comparison("not shown", None, None, None, margin, "is undefined, so it cannot be compared")
    difference = welch_interval(new, old)
    shown = non_inferiority_seeds(new, old, margin, higher_is_better=False)
    value = difference.value
    assert value is not None
    if difference.interval is None or shown.bound is None:
        return Comparison(
            "not shown",
            value,
            None,
            None,
            margin,
            f"differs by {value:+.3g}, without an interval ({difference.reason})",
        )
    low, high = difference.interval.low, difference.interval.high
    text = f"is {abs(value):.3g} {'further from' if value > 0 else 'nearer to'} its ideal than full fine-tuning's"
    text += f" (95 % interval {low:+.3g} to {high:+.3g}, margin {margin:g})"
    verdict: Verdict = "as good" if shown.verdict else "worse" if low > 0 else "not shown"
    return Comparison(verdict, value, low, high, margin, text)


def _with_pareto(points: Sequence[Point]) -> list[Point]:
    """Mark, for each cost, the points that no other point beats in both bias and cost (means over seeds)."""
    fronts: dict[int, list[str]] = defaultdict(list)
    for key in COSTS:
        costed = [
            (i, mean, _mean_distance(p.bias))
            for i, p in enumerate(points)
            if p.role in ("grid", "full") and key in p.cost and (mean := p.cost[key].mean) is not None
        ]
        usable = [(i, cost, bias) for i, cost, bias in costed if bias is not None]
        for i, cost, bias in usable:
            beaten = any(c <= cost and b <= bias and (c < cost or b < bias) for _, c, b in usable)
            if not beaten:
                fronts[i].append(key)
    return [replace(p, pareto=tuple(fronts[i])) for i, p in enumerate(points)]


def _mean_distance(summary: Summary) -> float | None:
    distances = summary.distances()
    return sum(distances) / len(distances) if distances else None


def _lines(grid: Sequence[Point]) -> list[list[Point]]:
    """Points by label, in order of rank."""
    lines: dict[str, list[Point]] = defaultdict(list)
    for point in grid:
        lines[point.label].append(point)
    return [sorted(line, key=lambda p: p.rank or 0) for line in lines.values()]


def _trends(grid: Sequence[Point]) -> list[Trend]:
    """Spearman of bias and quality with rank for each method, Holm-corrected over all of them."""
    raw: list[Trend] = []
    for line in _lines(grid):
        ranked = [p for p in line if p.rank is not None]
        if len(ranked) < 3:
            continue
        seeds = sorted({seed for p in ranked for seed in p.bias.values})
        for quantity in ("bias", "quality"):
            rows = [[getattr(p, quantity).values.get(seed, math.nan) for p in ranked] for seed in seeds]
            trend = rank_trend([math.log2(p.rank or 1) for p in ranked], rows, seed=0)
            raw.append(Trend(line[0].label, quantity, trend.rho, trend.p_value, None, trend.reason))
    corrected = holm([t.p_value for t in raw])
    return [
        Trend(t.label, t.quantity, t.rho, t.p_value, p, t.reason) for t, p in zip(raw, corrected, strict=True)
    ]
