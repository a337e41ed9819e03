"""A client of one server, for commands. Refusals and failures become one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import httpx

from serving.cli.first_key import kept_key
from serving.config import Settings

FAILED = 1
USAGE = 2

_PAGE = 100
_LISTINGS = 5
_TIMEOUT = httpx.Timeout(60, connect=5)


class CallFailed(Exception):
    """The server refused or cannot be reached; the message is for the user."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class ApiClient:
    """Calls one server with one key. May be used by several threads.

    Every method raises `CallFailed`.

    Args:
        http: with the server's address and a key.
    """

    key_name: ClassVar[str] = "key"
    how_to_get_a_key: ClassVar[str] = "Give --key, or set RINGFENCE_API_KEY."

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    @classmethod
    def at(cls, settings: Settings, path: str, *, url: str | None, key: str | None) -> Self:
        """A client of the API at `path` of the server at `url`, else of this machine's.

        The key that the first start made is sent to this machine's server only.
        """
        own = settings.server.local_url
        base = (url or own).rstrip("/")
        key = key or (cls.kept(settings) if base == own else None)
        if key is None:
            raise CallFailed(f"no {cls.key_name} for {base}. {cls.how_to_get_a_key}")
        if not (key.isascii() and key.isprintable()):
            raise CallFailed(f"the {cls.key_name} has characters that no key has", USAGE)
        try:
            http = httpx.Client(
                base_url=f"{base}{path}",
                headers={"Authorization": f"Bearer {key}"},
                timeout=_TIMEOUT,
                trust_env=base != own,  # A proxy of the environment must not see what stays here.
            )
        except httpx.InvalidURL:
            raise CallFailed(f"{base!r} is not a URL", USAGE) from None
        return cls(http)

    @staticmethod
    def kept(settings: Settings) -> str | None:
        """The key that the first start made."""
        return kept_key(settings)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to one call."""
        answer: dict[str, Any] = self.send(method, path, json=body).json()
        return answer

    def all(self, path: str) -> list[dict[str, Any]]:
        """Every item of a list that comes in pages.

        It is read anew if the item goes that a page ended with.
        """
        for _ in range(_LISTINGS - 1):
            try:
                return self._pages(path)
            except CallFailed as error:
                if error.code != USAGE:
                    raise
        return self._pages(path)

    def _pages(self, path: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": _PAGE}
        while True:
            page = self.send("GET", path, params=query).json()
            items += page["data"]
            if not page["has_more"]:
                return items
            query["after"] = page["last_id"]

    def send(
        self, method: str, path: str, *, missing_is_fine: bool = False, **arguments: Any
    ) -> httpx.Response:
        """Send one request. With `missing_is_fine`, a 404 is a valid answer."""
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            url = self._http.base_url.copy_with(path="/")
            raise CallFailed(
                f"no server answers at {str(url).rstrip('/')} ({type(error).__name__}). "
                "`ringfence serve` must run there; --url or RINGFENCE_URL names another."
            ) from None
        if answer.status_code == 200 or (missing_is_fine and answer.status_code == 404):
            return answer
        raise self._refused(answer)

    def _refused(self, answer: httpx.Response) -> CallFailed:
        try:
            message = str(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return CallFailed(f"the server at {answer.url.host} answered {answer.status_code}")
        if answer.status_code in (401, 403):
            message = f"{message} {self.how_to_get_a_key}"
        return CallFailed(message, USAGE if answer.status_code == 400 else FAILED)
