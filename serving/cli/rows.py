"""Rows on standard output: a table on a terminal, tab-separated lines for anything else."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table


def show(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    on_terminal: Sequence[str] | None = None,
    caption: str | None = None,
) -> None:
    """Print rows.

    Args:
        rows: with a value for each column.
        columns: in their order; the first line names them.
        on_terminal: fewer columns, so that they fit.
        caption: under the table on a terminal.
    """
    if sys.stdout.isatty():
        _table(rows, on_terminal or columns, caption)
        return
    lines = [list(columns), *([_cell(row[name]) for name in columns] for row in rows)]
    typer.echo("\n".join("\t".join(line) for line in lines))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], caption: str | None) -> None:
    table = Table(caption=caption)
    for column in columns:
        table.add_column(column.removesuffix("_at"), overflow="fold", no_wrap=column == "id")
    for row in rows:
        table.add_row(*(_shorter(column, _cell(row[column])) for column in columns))
    Console(markup=False, emoji=False).print(table)  # A cell may be the name of a file.


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = ",".join(value) if isinstance(value, list | tuple) else str(value)
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _shorter(column: str, text: str) -> str:
    """A time to the second."""
    return text.replace("T", " ")[:19] if column.endswith("_at") else text
