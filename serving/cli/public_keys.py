"""The public keys that `ringfence ledger` and `ringfence receipt` trust."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving import config as configuration
from serving.egress.ledger.errors import PublicKeyInvalid
from serving.egress.ledger.signing import PublicKeys, Signer, key_file

PublicKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        help="PEM, one key or several; default: of this machine's signing key.",
    ),
]


def trusted_keys(public_key: Path | None, config: Path | None) -> PublicKeys:
    """Return the keys of a file, or else the public half of the local signing key.

    Raises:
        LedgerError, ConfigError, OSError: there is neither, or it cannot be used.
    """
    if public_key is not None:
        return PublicKeys.read(public_key)
    path = key_file(configuration.load(config))
    try:
        return Signer.load(path).public_keys
    except FileNotFoundError:
        raise PublicKeyInvalid(
            f"no signing key at {str(path)!r}; give the public key with --public-key FILE"
        ) from None


def failure(error: Exception, code: int = 1) -> typer.Exit:
    """Print one line on standard error, and return the exit code."""
    typer.echo("ringfence: " + "; ".join(str(error).splitlines()), err=True)
    return typer.Exit(code)
