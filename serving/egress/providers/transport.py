"""The gated transport: a client's bytes pass a gate, and go to one host only.

The official clients run on it, so that nothing they or their environment add leaves: headers are
made here, the key is known here only, and what comes back is bounded before they parse it.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import httpx2

from serving.egress.providers.event_frames import EventFrames
from serving.egress.providers.provider import Departure, Gate, Observe, ProviderBroken, Received
from serving.egress.providers.ratelimit_headers import headroom

USER_AGENT = "ringfence"

# At their lower levels these write bodies and headers, and environment variables set the level.
_TALKERS = ("openai", "anthropic", "httpx2", "httpcore2")


@dataclass(frozen=True, slots=True)
class Destination:
    """The URL of a provider, and the headers for it, its key among them.

    Attributes:
        url: https, or http to this machine. Requests go to paths below it.
        headers: sent with each request.
        allow_http: lets http go to other machines too. Anyone on the way reads and alters it.
        query: added to each URL.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow_http: bool = False
    query: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        url = httpx2.URL(self.url)
        if not url.host or url.userinfo or url.query or url.fragment:
            raise ValueError("a provider's URL has a host and a path, and nothing else")
        plain = url.scheme == "http" and (self.allow_http or _is_loopback(url.host))
        if url.scheme != "https" and not plain:
            raise ValueError("a provider's URL begins with https, or with http to this machine")

    def holds(self, url: httpx2.URL) -> bool:
        """Whether `url` is at this destination."""
        own = httpx2.URL(self.url)
        below = own.path.rstrip("/") + "/"
        return _origin(url) == _origin(own) and url.path.startswith(below) and not url.userinfo


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class AnswerBounds:
    """Bounds of an answer."""

    answer_bytes: int = 32 * 1024 * 1024
    event_bytes: int = 1024 * 1024
    events: int = 500_000
    refusal_bytes: int = 64 * 1024


class Connections:
    """The connections to one destination. Certificates are verified; no proxy is asked.

    Args:
        destination: where they lead.
        bounds: of each answer.
        max_connections: at once; more requests wait for `connect_s`.
        tls: verifies certificates in another way than by the system's authorities.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        bounds: AnswerBounds | None = None,
        max_connections: int = 256,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.destination = destination
        self.bounds = bounds or AnswerBounds()
        self._connections = httpx2.AsyncHTTPTransport(
            verify=tls or True,
            trust_env=False,
            limits=httpx2.Limits(max_connections=max_connections, keepalive_expiry=30.0),
        )
        for name in _TALKERS:
            logging.getLogger(name).setLevel(logging.WARNING)

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request of ours; its answer's body is still to be read."""
        return await self._connections.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections.aclose()


class GatedTransport(httpx2.AsyncBaseTransport):
    """Lets one request out through an outlet.

    Args:
        outlet: where it goes.
        request_id: of the request.
        gate: sees the bytes before they leave.
        observe: gets what the answer's headers tell of our limits.
        received: gets how long each piece of the answer's body is.
        departed: called when the gate has let the request go.

    Attributes:
        refusal: why it did not go, or why its answer was not taken, as it was raised. The clients
            wrap errors in their own; this is how the cause is found again.
    """

    def __init__(
        self,
        outlet: Connections,
        *,
        request_id: str,
        gate: Gate,
        observe: Observe,
        received: Received,
        departed: Callable[[], None],
    ) -> None:
        self._outlet = outlet
        self._request_id = request_id
        self._gate = gate
        self._observe = observe
        self._received = received
        self._departed = departed
        self._used = False
        self.refusal: Exception | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Ask the gate, send exactly the bytes it saw, and check what the answer says it is."""
        try:
            departing = await self._ask(request)
            self._departed()
            response = await self._outlet.send(departing)
            self._observe(headroom(response.headers))
            return await self._checked(response)
        except httpx2.RequestError:
            raise
        except Exception as error:
            self.refusal = error
            raise

    async def _ask(self, request: httpx2.Request) -> httpx2.Request:
        destination, url = self._outlet.destination, request.url
        if self._used or request.method != "POST" or not destination.holds(url):
            raise ProviderBroken("a request to another place was refused", code="wrong_destination")
        self._used = True
        body = await request.aread()
        place = str(url.copy_with(query=None, fragment=None))
        await self._gate(Departure(self._request_id, place, body))
        return httpx2.Request(
            "POST",
            url,
            headers=_HEADERS | dict(destination.headers),
            content=body,
            extensions={"timeout": request.extensions["timeout"]},
        )

    async def _checked(self, response: httpx2.Response) -> httpx2.Response:
        if response.status_code >= 400:
            return await self._refused(response)
        fault = _fault(response)
        if fault is not None:
            await response.aclose()
            raise ProviderBroken("the answer is no event stream", code=fault)
        stream = _Answer(response, self._outlet.bounds, self._received)
        return httpx2.Response(response.status_code, headers=_kept(response.headers), stream=stream)

    async def _refused(self, response: httpx2.Response) -> httpx2.Response:
        """Read the beginning of a refusal's body."""
        body = b""
        try:
            async for piece in cast("httpx2.AsyncByteStream", response.stream):
                self._received(len(piece))
                body += piece
                if len(body) >= self._outlet.bounds.refusal_bytes:
                    break
        finally:
            await response.aclose()
        return httpx2.Response(response.status_code, headers=_kept(response.headers), content=body)


_HEADERS = {
    "accept": "text/event-stream",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": USER_AGENT,
}

_DROPPED = ("content-encoding", "content-length", "transfer-encoding", "set-cookie")


def _kept(headers: httpx2.Headers) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.multi_items() if name not in _DROPPED]


def _fault(response: httpx2.Response) -> str | None:
    """Why a response cannot be the stream that was asked for."""
    if response.status_code != 200:
        return "redirect" if 300 <= response.status_code < 400 else "wrong_status"
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        return "content_encoding"
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return None if media_type == "text/event-stream" else "content_type"


class _Answer(httpx2.AsyncByteStream):
    """The body of an answer as whole events, within bounds."""

    def __init__(self, response: httpx2.Response, bounds: AnswerBounds, received: Received) -> None:
        self._response = response
        self._received = received
        self._left = bounds.answer_bytes
        self._frames = EventFrames(max_event_bytes=bounds.event_bytes, max_events=bounds.events)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in cast("httpx2.AsyncByteStream", self._response.stream):
            self._received(len(piece))
            self._left -= len(piece)
            if self._left < 0:
                raise ProviderBroken("the answer is too large", code="endless")
            if whole := self._frames.feed(piece):
                yield whole

    async def aclose(self) -> None:
        await self._response.aclose()
