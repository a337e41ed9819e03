"""`ringfence usage`: what was used and what it cost, over the admin API."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from serving.cli import rows
from serving.cli.clients.admin import AdminKeyOption, administration
from serving.cli.options import ConfigOption, JsonOption, UrlOption

_SUMS = (
    *("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("cost", "duration_ms"),
)


def usage(
    *,
    by: Annotated[
        str, typer.Option(help="Some of day,key,tenant,model; empty for one sum.")
    ] = "day",
    since: Annotated[str | None, typer.Option(metavar="DAY", help="2026-11-01, in UTC.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="The last day.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only of this key.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Show requests, tokens and costs."""
    filters = {"since": since, "until": until, "tenant": tenant, "key": key, "model": model}
    query = {name: value for name, value in filters.items() if value is not None}
    query |= {"group_by": by, "format": "csv" if as_csv else "json"}
    with administration(config, url=url, key=admin_key) as admin:
        text = admin.text("/usage", query)
    if as_csv or as_json:
        typer.echo(text, nl=not as_csv)
        return
    report = json.loads(text)
    shown = [row | {"cost": f"{row['cost']} {report['currency']}"} for row in report["data"]]
    rows.show(shown, (*filter(None, by.split(",")), *_SUMS))
