"""Reports of a study: self-contained HTML, Markdown and JSON, from what the store holds.

``analysis`` says what the numbers mean, ``tables`` and ``plots`` show it, ``templates`` frame it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import jinja2
import yaml

from balora.errors import StorageError
from balora.report import plots, tables
from balora.report.analysis import StudyReport, analyse

__all__ = ["StudyReport", "analyse", "render", "write"]

Format = Literal["html", "md", "json"]


def render(report: StudyReport, format: Format) -> str:
    """The report as text.

    HTML is one file with its script inside and no reference to any network; JSON holds every number of the analysis
    (documented in the docs' page on reports) and is stable.
    """
    if format == "json":
        return json.dumps(
            {"schema_version": 1, **dataclasses.asdict(report)}, indent=2, default=str, allow_nan=False
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("balora.report"),
        autoescape=format == "html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment.get_template(f"study.{format}.j2").render(
        report=report,
        bias=_about(report, report.question.bias),
        quality=_about(report, report.question.quality),
        summary=tables.summary_table(report),
        recommended=tables.recommendation_table(report),
        ablation=tables.ablation_table(report),
        trend=tables.trend_table(report),
        methods=tables.method_tables(report),
        config=yaml.safe_dump(report.config, sort_keys=False, allow_unicode=True),
        charts=_charts(report) if format == "html" else {},
        profiles=plots.profiles(report),
    )


def write(report: StudyReport, path: Path, format: Format) -> None:
    """The report into a file, which appears whole or not at all."""
    text = render(report, format)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise StorageError(
            f"the report {path} cannot be written: {error.strerror}; choose another --output"
        ) from None


def _charts(report: StudyReport) -> dict[str, str]:
    figures = {
        "bias": plots.against_rank(report, "bias"),
        "quality": plots.against_rank(report, "quality"),
        "trade_off": plots.trade_off(report),
        "cost": plots.against_cost(report),
        **{f"layer {name}": plots.by_layer(report, name) for name in plots.profiles(report)},
    }
    html = {}
    for number, (name, figure) in enumerate(figures.items()):
        html[name] = figure.to_html(
            full_html=False,
            include_plotlyjs="inline" if number == 0 else False,  # once for the page, and no CDN
            div_id=f"chart-{number}",
            config={"displaylogo": False, "responsive": True, "toImageButtonOptions": {"format": "svg"}},
        )
    return html


def _about(report: StudyReport, path: str) -> dict[str, str]:
    """What a measurement path means, from its metric's own description."""
    from balora.metrics import metrics

    metric = path.partition("/")[2].partition("[")[0]
    for family in metrics:
        for info in family.metrics:
            if info.name == metric:
                low, high = (f"{v:g}" for v in (info.low, info.high))
                return {
                    "path": path,
                    "definition": info.definition,
                    "range": f"{low} to {high}",
                    "ideal": "none" if info.ideal is None else f"{info.ideal:g}",
                    "undefined": info.undefined_when,
                    "source": info.source,
                }
    return {"path": path, "definition": "", "range": "", "ideal": "", "undefined": "", "source": ""}
