"""`ringfence budgets`: what keys and tenants may spend, and have spent, over the admin API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import typer

from serving.admission.limits import WINDOWS, WithoutStore
from serving.cli.bounds import BoundKind
from serving.cli.clients.admin import AdminKeyOption, administration
from serving.cli.options import ConfigOption, JsonOption, UrlOption

budgets_app = typer.Typer(no_args_is_help=True, help="Manage budgets of a running server.")

Kind = Annotated[Literal["key", "tenant"], typer.Argument(help="Whose budget it is.")]
Named = Annotated[str, typer.Argument(metavar="NAME", help="A key's id, or a tenant's name.")]
Policy = Annotated[
    WithoutStore, typer.Option(help="What these budgets do while Valkey cannot be asked.")
]


def _rows(budgets: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    same = {name: budgets[name] for name in ("kind", "subject", "currency")}
    for window in WINDOWS:
        if (budget := budgets[window]) is not None:
            yield {**budget, **same, "window": window}


_COLUMNS = (
    *("kind", "subject", "window", "amount", "spent", "reserved"),
    *("currency", "without_store"),
)
_BOUNDS = BoundKind("budgets", _rows, _COLUMNS, on_terminal=_COLUMNS[:-1])


@budgets_app.command("list")
def list_budgets(
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Show every budget, and how much of it is spent."""
    _BOUNDS.show_all(administration(config, url=url, key=admin_key), as_json=as_json)


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
    _BOUNDS.put(administration(config, url=url, key=admin_key), kind, name, body, as_json=as_json)


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
    opened = administration(config, url=url, key=admin_key)
    _BOUNDS.remove(opened, kind, name, windows, as_json=as_json)
