"""An OpenAI-compatible deployment by URL: where to connect, and which model to measure."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.client.load_client import CONNECT_DEADLINE_S, Target
from benchmarks.client.prompts import OPENING

LIST_DEADLINE_S = 30.0
_MAX_REASON_CHARACTERS = 200


class DeploymentError(RuntimeError):
    """The deployment cannot be measured. The message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Model:
    """The model that is measured.

    Attributes:
        id: The name that requests use.
        simulated: Whether the server says that its answers are simulated.
    """

    id: str
    simulated: bool = False


def target_of(url: str, *, api_key: str) -> Target:
    """Parse a base URL into a target; its model is still empty.

    Args:
        url: An `http` or `https` URL, with or without `/v1` at its end.
        api_key: Printable ASCII; empty if the server needs no key.

    Raises:
        ValueError: The URL is invalid, or the key cannot be a header's value.
    """
    if not (api_key.isascii() and (api_key.isprintable() or not api_key)):
        raise ValueError("the key contains characters that are not printable ASCII")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the URL may have only a host, a port and a path")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError(f"{url!r} is not a URL")
    secure = parts.scheme == "https"
    return Target(
        host=parts.hostname,
        port=parts.port or (443 if secure else 80),
        model="",
        api_key=api_key,
        base_path=parts.path.rstrip("/").removesuffix("/v1") + "/v1",
        tls=ssl.create_default_context() if secure else None,
    )


def url_of(target: Target) -> str:
    """Return the base URL of `target`, as clients of OpenAI's API expect it."""
    scheme = "https" if target.tls else "http"
    return f"{scheme}://{target.authority}{target.base_path}"


def find_model(target: Target, *, wanted: str | None) -> Model:
    """Return the model to measure: `wanted`, or the first generating model in `/v1/models`.

    A server may serve `wanted` without listing it; the first request will show.
    with the first request.

    DeploymentError: No server answers, the key is refused, or no model can be chosen.
        DeploymentError: If no server answers, it refuses the key, or no model can be chosen.
    """
    answer = _get_models(target)
    if answer.status_code in {401, 403}:
        raise DeploymentError(f"the server rejects the key: {_told(answer, target)}")
    cards = _cards(answer) if answer.status_code == 200 else []
    if wanted:
        return next((_model(c) for c in cards if c["id"] == wanted), Model(wanted))
    if answer.status_code != 200:
        raise DeploymentError(f"{url_of(target)}/models: {_told(answer, target)}; name a model")
    generating = [card for card in cards if card.get("task", "generate") == "generate"]
    if not generating:
        raise DeploymentError(f"{url_of(target)}/models lists no generating model")
    return _model(generating[0])


def _get_models(target: Target) -> httpx.Response:
    headers = {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    try:
        # The load bypasses proxies of the environment, so this request does too.
        with httpx.Client(
            verify=target.tls or False,
            trust_env=False,
            timeout=httpx.Timeout(LIST_DEADLINE_S, connect=CONNECT_DEADLINE_S),
        ) as http:
            return http.get(f"{url_of(target)}/models", headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error)[:_MAX_REASON_CHARACTERS] or "no reason given"
        raise DeploymentError(
            f"no server answers at {url_of(target)} ({type(error).__name__}: {reason})"
        ) from None


def _cards(answer: httpx.Response) -> list[dict[str, Any]]:
    try:
        listed = answer.json()["data"]
        return [card for card in listed if isinstance(card["id"], str)]
    except (ValueError, KeyError, TypeError):
        raise DeploymentError(f"{answer.url} does not answer like OpenAI's API") from None


def _model(card: dict[str, Any]) -> Model:
    return Model(id=card["id"], simulated=card.get("simulated") is True)


def _told(answer: httpx.Response, target: Target) -> str:
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
    return without_secrets(f"status {answer.status_code}, {message}", target)


def without_secrets(reason: str, target: Target) -> str:
    """Redact the key from a server's message, and cut it where it repeats a prompt."""
    before, *echoed = OPENING.split(reason, maxsplit=1)
    text = f"{before}[prompt]" if echoed else before
    if target.api_key:
        text = text.replace(target.api_key, "[key]")
    return text[:_MAX_REASON_CHARACTERS]
