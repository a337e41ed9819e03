"""A client of the admin API, for the commands that manage a running server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote

import httpx
import typer

from serving import config as configuration
from serving.cli.first_key import kept_admin_key
from serving.config import ConfigError, Settings

FAILED = 1
USAGE = 2

UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="RINGFENCE_URL", help="Base URL, if not this machine's."),
]
AdminKeyOption = Annotated[
    str | None,
    typer.Option(
        "--admin-key", envvar="RINGFENCE_ADMIN_KEY", help="If not the one of the first start."
    ),
]

_PAGE = 100
_TIMEOUT = httpx.Timeout(30, connect=5)
_HOW_TO_GET_A_KEY = (
    "On the server's machine `ringfence keys create --admin --tenant default --name NAME` makes "
    "an admin key; give it in RINGFENCE_ADMIN_KEY."
)


class CallFailed(Exception):
    """The server refused or cannot be reached; the message is for the user."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class AdminClient:
    """Calls the admin API of one server. Every method raises `CallFailed`."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    @classmethod
    def of(cls, settings: Settings, *, url: str | None, key: str | None) -> Self:
        """A client of the server at `url`, else of this machine's.

        The key that the first start made is sent to this machine's server only.
        """
        own = settings.server.local_url
        base = (url or own).rstrip("/")
        key = key or (kept_admin_key(settings) if base == own else None)
        if key is None:
            raise CallFailed(f"no admin key for {base}. {_HOW_TO_GET_A_KEY}")
        if not (key.isascii() and key.isprintable()):
            raise CallFailed("the admin key has characters that no key has", USAGE)
        try:
            http = httpx.Client(
                base_url=f"{base}/admin/v1",
                headers={"Authorization": f"Bearer {key}"},
                timeout=_TIMEOUT,
                trust_env=base != own,  # A proxy of the environment must not see what stays here.
            )
        except httpx.InvalidURL:
            raise CallFailed(f"{base!r} is not a URL", USAGE) from None
        return cls(http)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to one call."""
        answer: dict[str, Any] = self._send(method, path, json=body).json()
        return answer

    def text(self, path: str, query: Mapping[str, str]) -> str:
        """What a path has, as it comes."""
        return self._send("GET", path, params=query).text

    def all(self, path: str) -> list[dict[str, Any]]:
        """Every item of a list that comes in pages."""
        items: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": _PAGE}
        while True:
            page = self._send("GET", path, params=query).json()
            items += page["data"]
            if not page["has_more"]:
                return items
            query["after"] = page["last_id"]

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            url = str(self._http.base_url).removesuffix("/admin/v1/")
            raise CallFailed(
                f"no server answers at {url} ({type(error).__name__}). `ringfence serve` must run "
                "there; --url or RINGFENCE_URL names another."
            ) from None
        if answer.status_code != 200:
            raise _refused(answer)
        return answer

    def close(self) -> None:
        """Close its connections."""
        self._http.close()


@contextmanager
def administration(
    config: Path | None, *, url: str | None, key: str | None
) -> Iterator[AdminClient]:
    """A client for the block; a known failure in it ends the program with one line."""
    try:
        client = AdminClient.of(configuration.load(config), url=url, key=key)
        try:
            yield client
        finally:
            client.close()
    except (CallFailed, ConfigError, OSError) as error:
        typer.echo("ringfence: " + "; ".join(str(error).splitlines()), err=True)
        code = error.code if isinstance(error, CallFailed) else FAILED
        raise typer.Exit(code) from None


def path_of(*parts: str) -> str:
    """A path of names, whatever is in them; a model's slashes stay."""
    return "".join("/" + quote(part, safe="/:") for part in parts)


def _refused(answer: httpx.Response) -> CallFailed:
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return CallFailed(f"the server at {answer.url.host} answered {answer.status_code}")
    if answer.status_code in (401, 403):
        message = f"{message} {_HOW_TO_GET_A_KEY}"
    return CallFailed(message, USAGE if answer.status_code == 400 else FAILED)
