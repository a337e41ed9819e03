"""`ringfence receipt`: check offline what a receipt says, and print the key that checks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from serving import config as configuration
from serving.cli.options import ConfigOption, JsonOption
from serving.cli.public_keys import PublicKeyOption, failure, trusted_keys
from serving.config import ConfigError
from serving.egress.ledger.errors import LedgerError
from serving.egress.ledger.receipts import Departed, Receipt
from serving.egress.ledger.receipts import verify as verified
from serving.egress.ledger.signing import Signer, key_file

receipt_app = typer.Typer(
    name="receipt", help="Check what an answer's receipt says.", no_args_is_help=True
)


@receipt_app.command()
def verify(
    receipt: Annotated[
        str, typer.Argument(metavar="[TOKEN|-]", help="Of x-ringfence-receipt; -: from input.")
    ] = "-",
    public_key: PublicKeyOption = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say what a receipt states, if its signature is good; exit code 1 if not. Asks no server."""
    text = typer.get_text_stream("stdin").read() if receipt == "-" else receipt
    try:
        found = verified(text.strip(), trusted_keys(public_key, config))
    except (LedgerError, ConfigError, OSError) as error:
        raise failure(error) from error
    if as_json:
        typer.echo(found.model_dump_json())
        return
    for line in _lines(found):
        typer.echo(line)


@receipt_app.command("public-key")
def public_key_(config: ConfigOption = None) -> None:
    """Print the public key in PEM, for those who check receipts. Makes the key if there is none."""
    try:
        typer.echo(Signer.load_or_create(key_file(configuration.load(config))).public_pem, nl=False)
    except (LedgerError, ConfigError, OSError) as error:
        raise failure(error) from error


def _lines(receipt: Receipt) -> Iterator[str]:
    if receipt.stayed_inside:
        yield "stayed inside: nothing left for this answer"
    else:
        yield f"left: {len(receipt.departures)} time(s)"
    yield f"request  {receipt.request_id}"
    yield f"time     {receipt.at.isoformat()}"
    yield f"model    {receipt.model}"
    yield f"route    {receipt.route}"
    yield f"privacy  {receipt.privacy}"
    for departed in receipt.departures:
        yield _departure(departed)


def _departure(one: Departed) -> str:
    found = ", ".join(f"{kind} {count}" for kind, count in one.entities.items()) or "none"
    return (
        f"to {one.provider} ({one.host}): {one.body_bytes} bytes, {one.privacy}, "
        f"replaced: {found}, policy {one.policy}, HMAC {one.body_hmac}, "
        f"ledger entry {one.sequence} ({one.hash})"
    )
