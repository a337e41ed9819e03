"""A client of the admin API, for the commands that manage a running server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from serving import config as configuration
from serving.cli.clients.api import FAILED, ApiClient, CallFailed
from serving.cli.first_key import kept_admin_key
from serving.config import ConfigError, Settings

AdminKeyOption = Annotated[
    str | None,
    typer.Option(
        "--admin-key", envvar="RINGFENCE_ADMIN_KEY", help="If not the one of the first start."
    ),
]


class AdminClient(ApiClient):
    """Calls the admin API of one server."""

    key_name = "admin key"
    how_to_get_a_key = (
        "On the server's machine `ringfence keys create --admin --tenant default --name NAME` "
        "makes an admin key; give it in RINGFENCE_ADMIN_KEY."
    )

    @staticmethod
    def kept(settings: Settings) -> str | None:
        """See `ApiClient.kept`."""
        return kept_admin_key(settings)

    def text(self, path: str, query: Mapping[str, str]) -> str:
        """Return the body at a path, undecoded."""
        return self.send("GET", path, params=query).text


@contextmanager
def administration(
    config: Path | None, *, url: str | None, key: str | None
) -> Iterator[AdminClient]:
    """A client for the block; a known failure in it ends the program with one line."""
    try:
        client = AdminClient.at(configuration.load(config), "/admin/v1", url=url, key=key)
        try:
            yield client
        finally:
            client.close()
    except (CallFailed, ConfigError, OSError) as error:
        typer.echo("ringfence: " + "; ".join(str(error).splitlines()), err=True)
        code = error.code if isinstance(error, CallFailed) else FAILED
        raise typer.Exit(code) from None


def path_of(*parts: str) -> str:
    """Build a path of quoted names; a model's slashes stay."""
    return "".join("/" + quote(part, safe="/:") for part in parts)
