"""The common part of `ringfence limits` and `ringfence budgets`: bounds on subjects, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import typer

from serving.cli import rows
from serving.cli.clients.admin import AdminClient, path_of

Opened = AbstractContextManager[AdminClient]


@dataclass(frozen=True, slots=True)
class BoundKind:
    """A kind of bounds: limits or budgets.

    Attributes:
        resource: its name in the admin API.
        rows_of: a row for each bound that a subject has, from what the API tells of it.
        columns: of those rows.
        on_terminal: fewer of them, so that they fit.
    """

    resource: str
    rows_of: Callable[[Mapping[str, Any]], Iterable[dict[str, Any]]]
    columns: Sequence[str]
    on_terminal: Sequence[str] | None = None

    def show_all(self, opened: Opened, *, as_json: bool) -> None:
        """Print every bound."""
        with opened as admin:
            found = admin.all(f"/{self.resource}")
        self._show(found, as_json=as_json)

    def put(
        self, opened: Opened, kind: str, name: str, body: dict[str, Any], *, as_json: bool
    ) -> None:
        """Set some bounds of a subject and print what it has."""
        with opened as admin:
            changed = admin.call("PUT", path_of(self.resource, kind, name), body)
        self._show([changed], as_json=as_json)

    def remove(
        self, opened: Opened, kind: str, name: str, which: list[str] | None, *, as_json: bool
    ) -> None:
        """Take some bounds of a subject away, or all."""
        path = path_of(self.resource, kind, name)
        with opened as admin:
            if which:
                changed = admin.call("PUT", path, dict.fromkeys(which))
            else:
                changed = admin.call("DELETE", path)
        gone = ", ".join(which or (f"all {self.resource}",))
        typer.echo(json.dumps(changed) if as_json else f"Removed {gone} of {kind} {name!r}.")

    def _show(self, found: list[dict[str, Any]], *, as_json: bool) -> None:
        if as_json:
            typer.echo(json.dumps(found))
            return
        shown = [row for subject in found for row in self.rows_of(subject)]
        rows.show(shown, self.columns, on_terminal=self.on_terminal)
