"""Files of a report: self-contained HTML, Markdown, JSON. Pure: text out."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from sentence_api.monitoring import formatting
from sentence_api.monitoring.sample import UNPLANNED
from sentence_api.reports import charts, sizing
from sentence_api.reports.summary import Report, as_dict

_FORMATS: dict[str, Callable[..., str]] = {
    "seconds": formatting.seconds,
    "span": formatting.span,
    "date": lambda moment: f"{_utc(moment):%Y-%m-%d %H:%M:%S}",
    "percent": lambda share: formatting.UNKNOWN if share is None else f"{100 * share:.0f} %",
    "bound": lambda bound, unit: "" if bound is None else f"{bound:g} {unit}".strip(),
    "lasted": lambda seconds: formatting.span(seconds) if seconds else "",
    "gravity": lambda kind: "critical" if kind in UNPLANNED else "",
    # str.capitalize() would turn all other letters to lower case.
    "capital": lambda text: text[:1].upper() + text[1:],
}


def files(found: Report) -> dict[str, str]:
    """Return the texts of a report's files by name."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
    )
    environment.filters.update(_FORMATS)
    environment.filters["clock"] = lambda moment: formatting.clock(_utc(moment), _utc(found.until))
    distances = [(each.figures.seconds, 1.0) for each in found.timeline.moments]
    service = found.server.service
    values: dict[str, Any] = {
        "r": found,
        "service": f"Version {service.get('version')}, {service.get('model')}"
        f" {service.get('precision', '')}".rstrip(),
        "distance": sizing.quantile(distances, 0.5) if distances else 0.0,
    }
    drawn = charts.draw(found.timeline, found.events, found.server, found.since, found.until)
    return {
        "report.html": environment.get_template("report.html").render(values, charts=drawn),
        "report.md": environment.get_template("report.md").render(values),
        "report.json": json.dumps(as_dict(found), indent=1),
    }


def _utc(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)
