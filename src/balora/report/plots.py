"""The report's charts, as plotly figures. One function a chart; each takes the analysed study and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from balora.report.analysis import COSTS, Point, StudyReport, Summary

# Okabe & Ito (2008): distinguishable with every common kind of color vision; markers differ as well.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#444444")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot")
_FULL, _BASE = "#000000", "#808080"


def against_rank(report: StudyReport, quantity: str) -> go.Figure:
    """Bias or quality against rank: means over seeds with 95 % t-intervals, full fine-tuning and base as lines."""
    figure = go.Figure()
    for label, points in _lines(report).items():
        ranked = [p for p in points if p.rank is not None and _of(p, quantity).mean is not None]
        summaries = [_of(p, quantity) for p in ranked]
        figure.add_trace(
            go.Scatter(
                x=[_nudged(p.rank or 1, label, report) for p in ranked],
                y=[s.mean for s in summaries],
                error_y=_bars(summaries),
                mode="lines+markers",
                name=label,
                customdata=[[p.rank, _values(s)] for p, s in zip(ranked, summaries, strict=True)],
                hovertemplate="%{fullData.name}, rank %{customdata[0]}: %{y:.4g}<br>%{customdata[1]}<extra></extra>",
                **_style(label, report),
            )
        )
    ranks = sorted({p.rank for p in report.grid if p.rank is not None})
    for role, color, dash, name in (
        ("full", _FULL, "solid", "full fine-tuning"),
        ("base", _BASE, "dash", "untouched base"),
    ):
        anchor = next((p for p in report.points if p.role == role), None)
        if anchor is not None and ranks:
            _horizontal(figure, _of(anchor, quantity), ranks, color, dash, name)
    asked = getattr(report.question, quantity)
    ideal = next((_of(p, quantity).ideal for p in report.points if _of(p, quantity).ideal is not None), None)
    figure.update_yaxes(title=f"{asked}<br>(ideal {ideal:g})" if ideal is not None else asked)
    figure.update_xaxes(title="adapter rank", type="log", tickvals=ranks, ticktext=[str(r) for r in ranks])
    return _framed(figure)


def trade_off(report: StudyReport) -> go.Figure:
    """Bias against quality, one marker a method and rank; crosses are 95 % t-intervals over seeds."""
    figure = go.Figure()
    for label, points in _lines(report).items():
        _scatter(figure, points, label, _style(label, report), lambda p: p.quality, lambda p: p.bias)
    for point in (p for p in report.points if p.role in ("full", "base")):
        color = _FULL if point.role == "full" else _BASE
        style = {"marker": {"color": color, "size": 13, "symbol": "star"}}
        name = "full fine-tuning" if point.role == "full" else "untouched base"
        _scatter(figure, [point], name, style, lambda p: p.quality, lambda p: p.bias)
    figure.update_xaxes(title=report.question.quality)
    figure.update_yaxes(title=report.question.bias)
    return _framed(figure)


def against_cost(report: StudyReport) -> go.Figure:
    """Bias against each cost; the line is the Pareto front (no point is better in both, means over seeds)."""
    keys = [k for k in COSTS if any(k in p.cost for p in report.points)]
    figure = make_subplots(rows=1, cols=max(len(keys), 1), shared_yaxes=True, horizontal_spacing=0.03)
    for column, key in enumerate(keys, start=1):
        for label, points in _lines(report).items():
            _scatter(
                figure,
                [p for p in points if key in p.cost],
                label,
                _style(label, report),
                lambda p, key=key: p.cost[key],
                lambda p: p.bias,
                row=1,
                col=column,
                showlegend=column == 1,
            )
        full = [p for p in report.points if p.role == "full" and key in p.cost]
        style = {"marker": {"color": _FULL, "size": 13, "symbol": "star"}}
        _scatter(
            figure,
            full,
            "full fine-tuning",
            style,
            lambda p, key=key: p.cost[key],
            lambda p: p.bias,
            row=1,
            col=column,
            showlegend=column == 1,
        )
        front = sorted(
            (p.cost[key].mean, p.bias.mean)
            for p in report.points
            if key in p.pareto and p.bias.mean is not None
        )
        figure.add_trace(
            go.Scatter(
                x=[cost for cost, _ in front],
                y=[bias for _, bias in front],
                mode="lines",
                line={"color": "rgba(0,0,0,0.45)", "dash": "dot", "shape": "hv"},
                name="Pareto front",
                showlegend=column == 1,
                legendgroup="front",
                hoverinfo="skip",
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(title=COSTS[key][0], type="log", row=1, col=column)
    figure.update_yaxes(title=report.question.bias, row=1, col=1)
    return _framed(figure)


def by_layer(report: StudyReport, profile: str) -> go.Figure:
    """A layer-wise measurement against the layer, a line for each method and rank (means over seeds).

    The largest rank of each method and full fine-tuning are shown; the legend brings in the others.
    """
    figure = go.Figure()
    largest = {label: max((p.rank or 0) for p in points) for label, points in _lines(report).items()}
    for point in report.points:
        if profile not in point.layers or point.role == "base":
            continue
        layers, values = zip(*point.layers[profile], strict=True)
        style = (
            _style(point.label, report)
            if point.role == "grid"
            else {"line": {"color": _FULL}, "marker": {"color": _FULL, "symbol": "star"}}
        )
        hidden = point.role == "grid" and point.rank is not None and point.rank != largest[point.label]
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=values,
                mode="lines+markers",
                name=point.name,
                visible="legendonly" if hidden else True,
                hovertemplate="%{fullData.name}<br>layer %{x}: %{y:.4g}<extra></extra>",
                **style,
            )
        )
    figure.update_xaxes(title="layer (0 = embeddings)", dtick=1)
    figure.update_yaxes(title=f"{profile} (0 = unchanged)", rangemode="tozero")
    return _framed(figure)


def profiles(report: StudyReport) -> list[str]:
    """Names of the layer-wise measurements that the study has."""
    return sorted({name for p in report.points for name in p.layers})


def _lines(report: StudyReport) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for point in report.grid:
        lines.setdefault(point.label, []).append(point)
    return {label: sorted(points, key=lambda p: p.rank or 0) for label, points in lines.items()}


def _of(point: Point, quantity: str) -> Summary:
    return point.bias if quantity == "bias" else point.quality


def _style(label: str, report: StudyReport) -> dict[str, Any]:
    index = list(_lines(report)).index(label)
    color = _COLORS[index % len(_COLORS)]
    return {
        "line": {"color": color, "width": 2, "dash": _DASHES[(index // len(_COLORS)) % len(_DASHES)]},
        "marker": {"color": color, "symbol": _MARKERS[index % len(_MARKERS)], "size": 9},
    }


def _nudged(rank: int, label: str, report: StudyReport) -> float:
    """The rank, moved a little sideways by method, so that intervals at one rank do not hide one another."""
    labels = list(_lines(report))
    shift = (labels.index(label) - (len(labels) - 1) / 2) * 0.035
    return math.exp(math.log(rank) + shift)


def _bars(summaries: Sequence[Summary]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [_gap(s.high, s.mean) for s in summaries],
        "arrayminus": [_gap(s.mean, s.low) for s in summaries],
        "thickness": 1.2,
        "width": 3,
    }


def _gap(upper: float | None, lower: float | None) -> float:
    return 0.0 if upper is None or lower is None else upper - lower


def _values(summary: Summary) -> str:
    each = ", ".join(f"seed {seed}: {value:.4g}" for seed, value in summary.values.items())
    interval = f"95 % interval {summary.low:.4g} to {summary.high:.4g}; " if summary.low is not None else ""
    return interval + each


def _horizontal(
    figure: go.Figure, summary: Summary, ranks: list[int], color: str, dash: str, name: str
) -> None:
    if summary.mean is None:
        return
    ends = [ranks[0] / 1.25, ranks[-1] * 1.25]
    if summary.low is not None and summary.high is not None:
        figure.add_trace(
            go.Scatter(
                x=[*ends, *reversed(ends)],
                y=[summary.low, summary.low, summary.high, summary.high],
                fill="toself",
                fillcolor=color,
                opacity=0.12,
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=name,
            )
        )
    figure.add_trace(
        go.Scatter(
            x=ends,
            y=[summary.mean, summary.mean],
            mode="lines",
            line={"color": color, "dash": dash, "width": 2},
            name=name,
            legendgroup=name,
            hovertemplate=f"{name}: %{{y:.4g}}<br>{_values(summary)}<extra></extra>",
        )
    )


def _scatter(
    figure: go.Figure, points: list[Point], label: str, style: dict[str, Any], x: Any, y: Any, **place: Any
) -> None:
    usable = [p for p in points if x(p).mean is not None and y(p).mean is not None]
    showlegend = place.pop("showlegend", True)
    figure.add_trace(
        go.Scatter(
            x=[x(p).mean for p in usable],
            y=[y(p).mean for p in usable],
            error_x=_bars([x(p) for p in usable]),
            error_y=_bars([y(p) for p in usable]),
            mode="markers+text",
            text=["" if p.rank is None else str(p.rank) for p in usable],
            textposition="top right",
            textfont={"size": 10},
            name=label,
            legendgroup=label,
            showlegend=showlegend,
            customdata=[p.name for p in usable],
            hovertemplate="%{customdata}<br>x %{x:.4g}, y %{y:.4g}<extra></extra>",
            marker=style["marker"],
        ),
        **place,
    )


def _framed(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        height=460,
        margin={"l": 80, "r": 20, "t": 20, "b": 60},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hoverlabel={"align": "left"},
    )
    return figure
