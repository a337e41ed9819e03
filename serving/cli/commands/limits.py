"""`ringfence limits`: rates of keys, tenants and models, over the admin API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from serving.admission.limits import RATES, SubjectKind, WithoutStore
from serving.cli.bounds import BoundKind
from serving.cli.clients.admin import AdminKeyOption, administration
from serving.cli.options import ConfigOption, JsonOption, UrlOption

limits_app = typer.Typer(no_args_is_help=True, help="Manage limits of a running server.")

Kind = Annotated[SubjectKind, typer.Argument(help="What the limit is on.")]
Named = Annotated[
    str, typer.Argument(metavar="NAME", help="A key's id, or a tenant's or model's name.")
]
Count = Annotated[int | None, typer.Option(min=0)]
Policy = Annotated[
    WithoutStore, typer.Option(help="What these limits do while Valkey cannot be asked.")
]


def _rows(limits: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for measure in RATES:
        if (limit := limits[measure]) is not None:
            yield {**limit, "kind": limits["kind"], "subject": limits["subject"], "limit": measure}


_BOUNDS = BoundKind("limits", _rows, ("kind", "subject", "limit", "value", "without_store"))


@limits_app.command("list")
def list_limits(
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Show every limit."""
    _BOUNDS.show_all(administration(config, url=url, key=admin_key), as_json=as_json)


@limits_app.command("set")
def set_limits(
    kind: Kind,
    name: Named,
    *,
    requests_per_minute: Count = None,
    tokens_per_minute: Count = None,
    concurrent_requests: Count = None,
    tokens_per_request: Count = None,
    without_store: Policy = "allow",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Set limits; those that are not given stay as they are."""
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent_requests": concurrent_requests,
        "tokens_per_request": tokens_per_request,
    }
    body: dict[str, Any] = {
        measure: {"value": value, "without_store": without_store}
        for measure, value in given.items()
        if value is not None
    }
    _BOUNDS.put(administration(config, url=url, key=admin_key), kind, name, body, as_json=as_json)


@limits_app.command()
def remove(
    kind: Kind,
    name: Named,
    measures: Annotated[
        list[str] | None,
        typer.Argument(metavar="LIMIT", help=f"Some of {', '.join(RATES)}; without any, all."),
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Take limits away."""
    opened = administration(config, url=url, key=admin_key)
    _BOUNDS.remove(opened, kind, name, measures, as_json=as_json)
