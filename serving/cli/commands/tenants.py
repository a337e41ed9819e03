"""`ringfence tenants`: list, create, weigh and delete tenants, over the admin API."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from serving.cli import rows
from serving.cli.clients.admin import AdminKeyOption, administration, path_of
from serving.cli.options import ConfigOption, JsonOption, UrlOption

tenants_app = typer.Typer(no_args_is_help=True, help="Manage tenants of a running server.")

Name = Annotated[str, typer.Argument(help="The tenant's name.")]
Weight = Annotated[
    float, typer.Option(help="Share of an engine that several tenants want at once.")
]


@tenants_app.command("list")
def list_tenants(
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Show every tenant."""
    with administration(config, url=url, key=admin_key) as admin:
        found = admin.all("/tenants")
    if as_json:
        typer.echo(json.dumps(found))
        return
    rows.show(found, ("name", "weight", "created_at"), caption="Times are UTC.")


@tenants_app.command()
def create(
    name: Name,
    *,
    weight: Weight = 1.0,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Add a tenant."""
    with administration(config, url=url, key=admin_key) as admin:
        made = admin.call("POST", "/tenants", {"name": name, "weight": weight})
    typer.echo(json.dumps(made) if as_json else f"Created tenant {name!r} of weight {weight:g}.")


@tenants_app.command("set")
def set_weight(
    name: Name,
    *,
    weight: Weight,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Change a tenant's weight."""
    with administration(config, url=url, key=admin_key) as admin:
        changed = admin.call("PATCH", path_of("tenants", name), {"weight": weight})
    typer.echo(json.dumps(changed) if as_json else f"Tenant {name!r} has weight {weight:g} now.")


@tenants_app.command()
def delete(
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Remove a tenant, its keys, and the limits of both. What it used stays recorded."""
    if not yes:
        typer.confirm(f"Delete tenant {name!r} and all of its keys?", abort=True, err=True)
    with administration(config, url=url, key=admin_key) as admin:
        gone = admin.call("DELETE", path_of("tenants", name))
    typer.echo(json.dumps(gone) if as_json else f"Deleted tenant {name!r}.")
