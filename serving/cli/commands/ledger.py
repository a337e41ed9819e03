"""`ringfence ledger`: what left, whether the record of it is whole, and a copy to keep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from serving import config as configuration
from serving.cli import rows
from serving.cli.options import ConfigOption, JsonOption
from serving.cli.public_keys import PublicKeyOption, failure, trusted_keys
from serving.config import ConfigError
from serving.egress.ledger.checkpoints import read_file
from serving.egress.ledger.errors import LedgerError, LedgerFileInvalid
from serving.egress.ledger.export import export as export_lines
from serving.egress.ledger.export import verify_file
from serving.egress.ledger.notes import add_checkpoint_request, verifier_key
from serving.egress.ledger.reading import (
    last_checkpoint,
    latest_crossings,
    leaves_to,
    verify_database,
)
from serving.egress.ledger.verification import Report
from serving.storage.database import Database
from serving.storage.errors import DatabaseError
from serving.storage.migrate import upgrade

T = TypeVar("T")

ledger_app = typer.Typer(
    name="ledger", help="Show and verify the record of what left.", no_args_is_help=True
)

NO_END = "no end"
"""Shown in place of an outcome: the attempt still runs, or its gateway died."""

_COLUMNS = (
    *("sequence", "left_at", "request_id", "tenant", "key_id", "provider", "host", "path", "model"),
    *("privacy", "policy", "entities", "body_bytes", "body_hmac", "outcome"),
    *("prompt_tokens", "completion_tokens", "cost", "received_bytes", "duration_ms"),
)
_TABLE_COLUMNS = (
    "sequence",
    "left_at",
    "request_id",
    "tenant",
    "provider",
    "privacy",
    "body_bytes",
    "outcome",
)
_ENDS = ("outcome", "prompt_tokens", "completion_tokens", "received_bytes", "duration_ms")


@ledger_app.command()
def verify(
    *,
    file: Annotated[
        Path | None, typer.Option(help="An export, instead of the database.", metavar="EXPORT")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            help="Checkpoints or a signed note that were kept elsewhere; may be repeated.",
            metavar="FILE",
        ),
    ] = None,
    public_key: PublicKeyOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check that the ledger is whole, in order, and as it was signed; exit code 1 if not."""
    try:
        keys = trusted_keys(public_key, config)
        anchors = [anchor for path in checkpoint or () for anchor in read_file(path, keys)]
        if file is not None:
            report = verify_file(file, keys, anchors=anchors)
        else:
            report = _run(config, lambda database: verify_database(database, keys, anchors=anchors))
    except (LedgerError, DatabaseError, ConfigError, OSError) as error:
        raise failure(error) from error
    _tell(report, as_json=as_json)


@ledger_app.command()
def show(
    *,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="Only what left for this request.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The last so many.")] = 20,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what left, the newest last: to whom, how much, and how it ended. There is no text."""
    try:
        found = _run(
            config, lambda database: latest_crossings(database, limit=limit, request_id=request)
        )
        told = [crossing.as_json() for crossing in found]
    except (DatabaseError, ConfigError, OSError, ValueError) as error:
        raise failure(error) from error
    if as_json:
        typer.echo(json.dumps(told))
        return
    rows.show(
        [_row(one) for one in told],
        _COLUMNS,
        on_terminal=_TABLE_COLUMNS,
        caption=f"Times are UTC. {NO_END}: it goes on, or its gateway died.",
    )


@ledger_app.command()
def export(config: ConfigOption = None) -> None:
    """Print the ledger with its checkpoints, one JSON object a line, to be kept elsewhere."""

    async def write(database: Database) -> None:
        async for line in export_lines(database):
            typer.echo(line, nl=False)

    try:
        _run(config, write)
    except (DatabaseError, ConfigError, OSError) as error:
        raise failure(error) from error


@ledger_app.command()
def checkpoint(
    *,
    since: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="SIZE", help="Print what a witness that has SIZE entries asks."
        ),
    ] = None,
    public_key: PublicKeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Print the last checkpoint as a signed note, for witnesses and to be kept elsewhere."""

    async def printed(database: Database) -> str:
        last = await last_checkpoint(database)
        if last is None:
            raise LedgerFileInvalid("nothing was signed yet")
        note = str(last.note(keys))
        if since is None:
            return note
        return add_checkpoint_request(note, await leaves_to(database, last.sequence), since)

    try:
        keys = trusted_keys(public_key, config)
        typer.echo(_run(config, printed), nl=False)
    except (LedgerError, DatabaseError, ConfigError, OSError, ValueError) as error:
        raise failure(error) from error


@ledger_app.command("verifier-key")
def verifier_key_(*, public_key: PublicKeyOption = None, config: ConfigOption = None) -> None:
    """Print the public key, with the ledger's origin, in the form that witnesses are given."""
    try:
        origin = configuration.load(config).ledger.origin
        for key in trusted_keys(public_key, config).by_id.values():
            typer.echo(verifier_key(origin, key))
    except (LedgerError, ConfigError, OSError) as error:
        raise failure(error) from error


def _run(config: Path | None, action: Callable[[Database], Awaitable[T]]) -> T:
    url = configuration.load(config).access.database_url
    upgrade(url)

    async def opened() -> T:
        database = Database.open(url)
        try:
            return await action(database)
        finally:
            await database.close()

    return asyncio.run(opened())


def _tell(report: Report, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"whole": report.fault is None} | asdict(report)))
    elif report.fault is not None:
        typer.echo(f"ringfence: the ledger is broken at {report.fault}", err=True)
    elif report.entries == 0:
        typer.echo("The ledger is empty.")
    else:
        typer.echo(
            f"The ledger is whole: {report.entries} entries, signed up to entry {report.signed_to}."
        )
    if report.fault is not None:
        raise typer.Exit(1)


def _row(told: dict[str, Any]) -> dict[str, Any]:
    end = told["arrival"] or {"outcome": NO_END}
    cost = end.get("cost_nanos")
    counts = [f"{kind}:{count}" for kind, count in told["entities"].items()]
    return (
        told
        | {name: end.get(name) for name in _ENDS}
        | {
            "left_at": told["at"],
            "entities": counts or None,
            "cost": None if cost is None else f"{cost / 1e9:.6f}",
        }
    )
