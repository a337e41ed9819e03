"""`ringfence keys`: create, list, revoke and rotate API keys.

A key's text goes to standard output, alone, once; what is said about it goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import SecretStr

from serving import config as configuration
from serving.access.errors import InvalidName, InvalidTime, KeysError
from serving.access.invalidation import Announcer, to_nobody
from serving.access.key_records import IssuedKey, KeyRecord
from serving.access.keys import KeyStore
from serving.access.secret import server_secret
from serving.cli import rows
from serving.cli.options import ConfigOption, JsonOption
from serving.config import Settings
from serving.domain.clock import utc_now
from serving.domain.privacy_class import PrivacyClass
from serving.storage.database import Database
from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.errors import DatabaseError, ValkeyUrlInvalid
from serving.storage.migrate import upgrade
from serving.storage.valkey import Valkey

T = TypeVar("T")

keys_app = typer.Typer(name="keys", help="Create and manage API keys.", no_args_is_help=True)

_FAILED = 1
_USAGE = 2
_DURATION = re.compile(r"(\d{1,5})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PLAIN_COLUMNS = (
    *("id", "tenant", "name", "role", "status", "privacy", "models", "groups", "user"),
    *("created_at", "expires_at", "revoked_at", "rotated_from", "last4"),
)
_TABLE_COLUMNS = ("id", "tenant", "name", "role", "status", "models", "expires_at")  # 80 wide.


def _duration(text: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a duration such as 30s, 15m, 12h, 30d or 2w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _expiry(text: str) -> datetime:
    if _DURATION.fullmatch(text):
        return utc_now() + _duration(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a duration such as 30d or 12h nor a date such as 2027-01-31"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Which = Annotated[str, typer.Argument(metavar="ID", help="The key's id, or its name.")]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="Only among this tenant's keys.")]


@keys_app.command()
def create(
    *,
    tenant: Annotated[str, typer.Option(help="Whom the key belongs to; added when new.")],
    name: Annotated[str, typer.Option(help="What the key is for; unique in its tenant.")],
    expires: Annotated[
        datetime | None,
        typer.Option(
            parser=_expiry, metavar="WHEN", help="30d, 12h, or 2027-01-31 (00:00 UTC of it)."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Allow this model only; may be repeated.")
    ] = None,
    privacy: Annotated[
        PrivacyClass,
        typer.Option(help="What may leave when local models cannot answer; requests may say less."),
    ] = "local_only",
    group: Annotated[
        list[str] | None, typer.Option(help="Let it read this group's files; may be repeated.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Let it read this user's files.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Manages; cannot infer.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Issue a key. Its text is shown this once."""
    issued = _run(
        config,
        lambda store: store.create(
            tenant,
            name,
            role="admin" if admin else "inference",
            expires_at=expires,
            allowed_models=model or None,
            privacy=privacy,
            groups=group or (),
            user=user,
        ),
    )
    _show_issued(issued, as_json=as_json)


@keys_app.command("list")
def list_keys(
    tenant: OfTenant = None, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Show every key, revoked and expired ones too; never its text."""
    records = _run(config, lambda store: store.list(tenant))
    shown = [_shown(record) for record in records]
    if as_json:
        typer.echo(json.dumps(shown))
        return
    rows.show(shown, _PLAIN_COLUMNS, on_terminal=_TABLE_COLUMNS, caption="Times are UTC.")


@keys_app.command()
def revoke(
    key: Which, tenant: OfTenant = None, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """End a key for good."""
    record = _run(config, lambda store: store.revoke(key, tenant))
    if as_json:
        typer.echo(json.dumps(_shown(record)))
        return
    typer.echo(
        f"Revoked key {record.name!r} ({record.id}) of tenant {record.tenant!r}; "
        "running servers refuse it from now on."
    )


@keys_app.command()
def rotate(
    key: Which,
    grace: Annotated[
        timedelta,
        typer.Option(parser=_duration, metavar="TIME", help="How long the old key still works."),
    ] = "0s",  # type: ignore[assignment]  # Typer runs the parser over the default.
    tenant: OfTenant = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Replace a key by a new one with the same name and rights, shown this once."""
    grace_s = grace.total_seconds()
    issued = _run(config, lambda store: store.rotate(key, tenant, grace_s=grace_s))
    _show_issued(issued, as_json=as_json)


def _run(config: Path | None, action: Callable[[KeyStore], Awaitable[T]]) -> T:
    """The action's result; a known failure ends the program with one line and no traceback."""
    try:
        settings = configuration.load(config)
        secret = server_secret(settings.access)
        upgrade(settings.access.database_url)
        return asyncio.run(_with_store(settings, secret, action))
    except (InvalidName, InvalidTime) as error:
        raise _failure(error, _USAGE) from error
    except (
        KeysError, DatabaseError, ValkeyUrlInvalid, configuration.ConfigError, OSError
    ) as error:  # fmt: skip
        raise _failure(error, _FAILED) from error


async def _with_store(
    settings: Settings, secret: SecretStr, action: Callable[[KeyStore], Awaitable[T]]
) -> T:
    database = Database.open(settings.access.database_url)
    valkey = _valkey(settings)
    announce = to_nobody if valkey is None else Announcer(valkey).announce
    try:
        return await action(KeyStore(database, secret, announce=announce))
    finally:
        await database.close()
        if valkey is not None:
            await valkey.close()


def _valkey(settings: Settings) -> Valkey | None:
    """The Valkey that running gateways share; None if no server runs on this state directory."""
    if settings.storage.valkey is not None:
        return Valkey.open(settings.valkey_url)
    embedded = EmbeddedValkey(settings.home)
    return Valkey.open(embedded.url) if embedded.is_used else None


def _failure(error: Exception, code: int) -> typer.Exit:
    typer.echo("ringfence: " + "; ".join(str(error).splitlines()), err=True)
    return typer.Exit(code)


def _show_issued(issued: IssuedKey, *, as_json: bool) -> None:
    key, record = issued.key.get_secret_value(), issued.record
    if as_json:
        typer.echo(json.dumps({**_shown(record), "key": key}))
        return
    typer.echo(key)
    until = f", valid until {_shown(record)['expires_at']}" if record.expires_at else ""
    typer.echo(
        f"This is the {record.role} key {record.name!r} ({record.id}) of tenant "
        f"{record.tenant!r}{until}. It is shown only once: store it now.",
        err=True,
    )


def _shown(record: KeyRecord) -> dict[str, Any]:
    """A record as JSON has it: times in ISO 8601, and the status of this moment."""
    row = {
        name: value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
        for name, value in asdict(record).items()
    }
    models = row.pop("allowed_models")
    return row | {"models": models, "status": record.status(utc_now())}
