"""The report's tables, as rows of text: the same ones in HTML, Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balora.report.analysis import COSTS, Comparison, Point, StudyReport, Summary


@dataclass(frozen=True)
class Table:
    """A caption, column heads, and rows of cells."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def summary_table(report: StudyReport, points: Sequence[Point] | None = None, title: str = "") -> Table:
    """One row for each method and rank: bias, quality, their verdicts against full fine-tuning, cost."""
    points = list(report.points if points is None else points)
    costs = [k for k in COSTS if any(k in p.cost for p in points)]
    head = ["method", "rank", "seeds", report.question.bias, "vs full", report.question.quality, "vs full"]
    rows = [
        [
            point.label,
            "" if point.rank is None else str(point.rank),
            str(max(len(point.bias.values), len(point.quality.values))),
            interval(point.bias),
            verdict(point.bias_against_full),
            interval(point.quality),
            verdict(point.quality_against_full),
            *[_cost(point, key) for key in costs],
        ]
        for point in points
    ]
    note = (
        "Mean over seeds with 95 % t-interval in brackets. 'As good': the one-sided 95 % Welch bound is within the "
        f"margin (bias {report.question.bias_margin:g}, quality {report.question.quality_margin:g}) of full "
        "fine-tuning, in distance to the ideal; 'worse': the whole 95 % interval of the difference is on the worse "
        "side; 'not shown': "
        "these seeds decide neither."
    )
    return Table(title or "All methods and ranks", [*head, *[COSTS[k][0] for k in costs]], rows, note)


def method_tables(report: StudyReport) -> list[Table]:
    """A table for each method: every headline measurement by rank, with the anchors beside them."""
    keys = list(dict.fromkeys(key for p in report.points for key in p.headline))
    anchors = [p for p in report.points if p.role in ("base", "full")]
    tables = []
    for label in dict.fromkeys(p.label for p in report.grid):
        line = [*anchors, *[p for p in report.grid if p.label == label]]
        head = ["measurement", "ideal", *[p.label if p.rank is None else f"rank {p.rank}" for p in line]]
        rows = [[key, _ideal(line, key), *[interval(p.headline.get(key)) for p in line]] for key in keys]
        tables.append(Table(label, head, rows))
    return tables


def ablation_table(report: StudyReport) -> Table | None:
    """The extra lines of the study, in a table of their own; None where it has none."""
    if not report.ablations:
        return None
    ranks = {p.rank for p in report.ablations}
    alike = [p for p in report.grid if p.rank in ranks]
    return summary_table(report, [*alike, *report.ablations], "Ablation: each term's part")


def trend_table(report: StudyReport) -> Table | None:
    """Spearman's correlation of bias and quality with rank; None with fewer than three ranks."""
    if not report.trends:
        return None
    rows = [
        [t.label, t.quantity, number(t.rho), number(t.p_value), number(t.p_holm), t.reason or ""]
        for t in report.trends
    ]
    note = (
        "Spearman's rho of the value with rank within seeds, permutation p, and p after Holm over the table."
    )
    return Table(
        "Does it move with rank?", ["method", "quantity", "rho", "p", "p (Holm)", "why undefined"], rows, note
    )


def recommendation_table(report: StudyReport) -> Table:
    """The recommended rank of each method with its reason."""
    rows = [
        [r.label, "none" if r.rank is None else str(r.rank), r.strength, r.reason]
        for r in report.recommendations
    ]
    return Table("Recommended rank", ["method", "rank", "strength", "reason"], rows)


def interval(summary: Summary | None) -> str:
    """``0.12 [0.10, 0.14]``, or why there is nothing."""
    if summary is None:
        return "not measured"
    if summary.mean is None:
        reasons = "; ".join(sorted(set(summary.missing.values())))
        return f"undefined ({reasons})" if reasons else "undefined"
    text = number(summary.mean)
    if summary.low is not None and summary.high is not None:
        text += f" [{number(summary.low)}, {number(summary.high)}]"
    if summary.missing:
        text += f" ({len(summary.missing)} seed{'s' * (len(summary.missing) > 1)} undefined)"
    return text


def verdict(comparison: Comparison | None) -> str:
    """The verdict's words, or nothing where there is no comparison."""
    return "" if comparison is None else comparison.verdict


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return f"{value:.2e}"


def _cost(point: Point, key: str) -> str:
    summary = point.cost.get(key)
    if summary is None or summary.mean is None:
        return ""
    return f"{summary.mean:,.0f}" if summary.mean >= 100 else f"{summary.mean:.1f}"


def _ideal(points: Sequence[Point], key: str) -> str:
    ideal = next((p.headline[key].ideal for p in points if key in p.headline), None)
    return "–" if ideal is None else f"{ideal:g}"
