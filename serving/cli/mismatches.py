"""Vector stores that a start refuses, because their embedder has changed; and what mends each."""

from __future__ import annotations

from contextlib import closing

import typer

from serving.cli.clients.admin import AdminClient
from serving.cli.clients.api import CallFailed
from serving.config import Settings


def tell_mismatches(settings: Settings) -> None:
    """Say it on standard error, a line for each store. A server that cannot tell is let be."""
    if settings.embedder is None:
        return
    try:
        with closing(AdminClient.at(settings, "/admin/v1", url=None, key=None)) as admin:
            stores = admin.call("GET", "/vector_stores")["data"]
    except CallFailed as error:
        typer.echo(
            f"ringfence: the embedders of vector stores were not compared: {error}", err=True
        )
        return
    for store in stores:
        if store["mismatch"]:
            typer.echo(f"ringfence: {store['mismatch']}", err=True)
