"""`ringfence drift`: how far a vector store's embedder, queries and documents have moved."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from serving.cli import rows
from serving.cli.clients.admin import AdminKeyOption, administration, path_of
from serving.cli.options import ConfigOption, JsonOption, UrlOption

_MEASURES = (
    *("canary_cosine", "psi", "centroid_shift", "psi_documents", "psi_documents_earlier"),
    *("centroid_shift_documents", "low_share", "low_share_earlier"),
)
_BARS = "▁▂▃▄▅▆▇█"


def drift(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Its id.")],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Report drift of a vector store; exit code 1 if something alarms."""
    with administration(config, url=url, key=admin_key) as admin:
        report = admin.call("GET", path_of("vector_stores", store, "drift"))
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _show(report)
    if report["alerts"]:
        raise typer.Exit(1)


def _show(report: Mapping[str, Any]) -> None:
    rows.show([_row(report, name) for name in _MEASURES], ("measure", "value", "alarm"))
    stale = report["staleness"]
    newest = stale["newest_age_days"]
    age = "-" if newest is None else f"{newest:.1f} days"
    typer.echo(f"queries: {report['queries']} recent, {report['earlier_queries']} earlier")
    typer.echo(f"files: {stale['files']}, the newest is {age} old")
    typer.echo(f"best cosines, 0 to 1: {plot(report['scores'])}")
    by_day = report["psi_by_day"]
    if by_day:
        days = list(by_day)
        typer.echo(f"psi by day, {days[0]} to {days[-1]}: {plot(list(by_day.values()))}")
    typer.echo("alerts: " + (", ".join(report["alerts"]) or "none"))


def _row(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = report[name]
    shown = report["missing"].get(name, "-") if value is None else f"{value:.4f}"
    return {"measure": name, "value": shown, "alarm": "yes" if name in report["alerts"] else None}


def plot(values: Sequence[float]) -> str:
    """Bars on a terminal, numbers for anything else."""
    if not sys.stdout.isatty():
        return " ".join(f"{value:g}" for value in values)
    return bars(values)


def bars(values: Sequence[float]) -> str:
    """Draw one bar for each value; the highest is full."""
    highest = max(values, default=0) or 1
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in values)
