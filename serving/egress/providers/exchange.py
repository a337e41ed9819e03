"""An exchange with a provider: an official client asks, and events come within deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import httpx2

from serving.egress.providers.provider import (
    NOT_CONNECTED,
    Gate,
    Observe,
    ProviderBroken,
    ProviderError,
    ProviderRequest,
    ProviderUnavailable,
    Received,
)
from serving.egress.providers.refusals import broke_off, refused
from serving.egress.providers.transport import Connections, GatedTransport

T = TypeVar("T")

_END = object()
_NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class EventStream(Protocol):
    """A client's stream: parsed events, and their connection."""

    def __aiter__(self) -> AsyncIterator[object]: ...

    async def close(self) -> None:
        """Close the connection."""
        ...


Opening = Callable[[httpx2.AsyncClient, httpx2.Timeout], Awaitable[EventStream]]
"""Sends the request by this HTTP client; returns when the head of the answer is there."""


class Exchange:
    """A request to a provider, and the events of its answer.

    Args:
        outlet: where it goes.
        request: for its id and its deadlines.
        gate: see `Provider.generate`.
        observe: see `Provider.generate`.
        received: see `Provider.generate`.
        client_error: the root of the errors of the client that `opening` calls.
    """

    def __init__(
        self,
        outlet: Connections,
        request: ProviderRequest,
        *,
        gate: Gate,
        observe: Observe,
        received: Received,
        client_error: type[Exception],
    ) -> None:
        self._deadlines = request.deadlines
        self._client_error = client_error
        self._door = GatedTransport(
            outlet,
            request_id=request.request_id,
            gate=gate,
            observe=observe,
            received=received,
            departed=self._begin,
        )
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + self._deadlines.total_s
        self._timer: asyncio.Timeout | None = None
        self._until = self._end
        self._answered = False

    async def events(self, opening: Opening) -> AsyncGenerator[dict[str, Any], None]:
        """The parsed events in order, until the stream ends.

        Raises:
            ProviderError: any of the tree.
        """
        limits = httpx2.Timeout(
            None, connect=self._deadlines.connect_s, pool=self._deadlines.connect_s
        )
        async with httpx2.AsyncClient(transport=self._door, trust_env=False) as client:
            stream = await self._in_time(opening(client, limits))
            self._answered = True
            try:
                events = aiter(stream)
                while (event := await self._in_time(anext(events, _END))) is not _END:
                    yield _checked(event)
                    self._until = min(self._end, self._loop.time() + self._deadlines.idle_s)
            finally:
                await stream.close()

    def _begin(self) -> None:
        """Start the provider's clock: the gate has let the request go."""
        self._until = min(self._end, self._loop.time() + self._deadlines.first_event_s)
        if self._timer is not None:
            self._timer.reschedule(self._until)

    async def _in_time(self, awaitable: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(self._until) as self._timer:
                return await awaitable
        except (
            self._client_error, httpx2.HTTPError, OSError, ValueError, RecursionError, ProviderError
        ) as error:  # fmt: skip
            raise (self._door.refusal or self._translated(error)) from None
        finally:
            self._timer = None

    def _translated(self, error: Exception) -> ProviderError:
        """Translate a client's error. Both clients use the same attribute names."""
        if isinstance(error, ProviderError):
            return error
        response, body = getattr(error, "response", None), getattr(error, "body", None)
        if response is not None and response.status_code >= 400:
            return refused(response.status_code, response.headers, body)
        return broke_off(body) if body is not None else self._without_word(error)

    def _without_word(self, error: Exception) -> ProviderError:
        """Translate an error without a message from the provider."""
        cause = error.__cause__
        if isinstance(cause, _NOT_CONNECTED):
            return ProviderUnavailable("the provider cannot be reached", code=NOT_CONNECTED)
        if isinstance(error, TimeoutError) or isinstance(cause, httpx2.TimeoutException):
            return ProviderUnavailable("the provider took too long", code="timeout")
        if isinstance(error, (ValueError, RecursionError)):
            return ProviderBroken("an event of the answer is malformed", code="malformed")
        if self._answered:
            return ProviderBroken("the connection was lost in the answer", code="disconnected")
        return ProviderUnavailable("the connection was lost before the answer", code="disconnected")


def _checked(event: object) -> dict[str, Any]:
    if not isinstance(event, dict):
        raise ProviderBroken("an event of the answer is malformed", code="malformed")
    if event.get("error"):
        raise broke_off(event)
    return event
