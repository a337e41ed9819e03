"""`ringfence budgets`: what keys and tenants may spend, and have spent, over the admin API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import typer

from serving.access.limits import WINDOWS, WithoutStore
from serving.cli import rows
from serving.cli.admin_client import AdminKeyOption, UrlOption, administration, path_of
from serving.cli.options import ConfigOption, JsonOption

budgets_app = typer.Typer(no_args_is_help=True, help="Manage budgets of a running server.")

Kind = Annotated[Literal["key", "tenant"], typer.Argument(help="Whose budget it is.")]
Named = Annotated[str, typer.Argument(metavar="NAME", help="A key's id, or a tenant's name.")]
Policy = Annotated[
    WithoutStore, typer.Option(help="What these budgets do while Valkey cannot be asked.")
]
_COLUMNS = (
    *("kind", "subject", "window", "amount", "spent", "reserved"),
    *("currency", "without_store"),
)


@budgets_app.command("list")
def list_budgets(
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Show every budget, and what is spent of it."""
    with administration(config, url=url, key=admin_key) as admin:
        found = admin.all("/budgets")
    _show(found, as_json=as_json)


@budgets_app.command("set")
def set_budgets(
    kind: Kind,
    name: Named,
    *,
    day: Annotated[str | None, typer.Option(metavar="AMOUNT", help="For a day of UTC.")] = None,
    month: Annotated[str | None, typer.Option(metavar="AMOUNT", help="For a month of UTC.")] = None,
    total: Annotated[str | None, typer.Option(metavar="AMOUNT", help="For all time.")] = None,
    without_store: Policy = "refuse",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Set budgets, such as 12.50; those that are not given stay as they are."""
    given = {"day": day, "month": month, "total": total}
    body: dict[str, Any] = {
        window: {"amount": amount, "without_store": without_store}
        for window, amount in given.items()
        if amount is not None
    }
    with administration(config, url=url, key=admin_key) as admin:
        changed = admin.call("PUT", path_of("budgets", kind, name), body)
    _show([changed], as_json=as_json)


@budgets_app.command()
def remove(
    kind: Kind,
    name: Named,
    windows: Annotated[
        list[str] | None,
        typer.Argument(metavar="WINDOW", help="Some of day, month, total; without any, all."),
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Take budgets away. What was spent stays recorded."""
    path = path_of("budgets", kind, name)
    with administration(config, url=url, key=admin_key) as admin:
        if windows:
            changed = admin.call("PUT", path, dict.fromkeys(windows))
        else:
            changed = admin.call("DELETE", path)
    which = ", ".join(windows or ("all",))
    typer.echo(json.dumps(changed) if as_json else f"Removed {which} of {kind} {name!r}.")


def _show(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    shown = [row for budgets in found for row in _rows(budgets)]
    rows.show(shown, _COLUMNS, on_terminal=_COLUMNS[:-1])


def _rows(budgets: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    same = {name: budgets[name] for name in ("kind", "subject", "currency")}
    for window in WINDOWS:
        if (budget := budgets[window]) is not None:
            yield {**budget, **same, "window": window}
