"""The sending end of deliveries: one connection from an engine's process to each receiver."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

from models.delivery.frames import LOST, Address, encode
from models.engine import Delta, EngineUnavailable, Failure, Usage

logger = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 5.0
FLUSH_BYTES = 65_536
DRAIN_DEADLINE_S = 60.0
"""Seconds that a receiver may read nothing before its streams are abandoned."""


class ReceiverGone(ConnectionError):
    """The receiver closed the connection, or no longer reads from it."""


class Sender:
    """Delivers the items of an engine over one connection per receiver.

    Args:
        tls: TLS for connections to other nodes; None sends unencrypted.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._links: dict[tuple[str, int], asyncio.Task[_Link]] = {}

    def close(self) -> None:
        """Drop every connection."""
        for task in self._links.values():
            if not _unusable(task) and task.done():
                task.result().abort()

    async def deliver(
        self,
        items: AsyncGenerator[Delta | Usage, None],
        address: Address,
        *,
        failure: Callable[[Exception], Failure],
    ) -> Failure | None:
        """Send every item; an error of the items is sent as the last one.

        Args:
            items: deltas, then one usage record. Always closed.
            address: the destination.
            failure: converts an error of `items` into a value.

        Returns:
            A failure that could not be delivered and must reach the receiver in another way, or
            None.
        """
        async with aclosing(items):
            try:
                link = await self._link(address)
                await _send(items, link, address.stream, failure)
            except OSError as error:  # This includes TimeoutError.
                logger.warning("deltas cannot be delivered: %s", type(error).__name__)
                return Failure(EngineUnavailable, LOST)
        return None

    async def _link(self, address: Address) -> _Link:
        key = (address.host, address.port)
        task = self._links.get(key)
        if task is None or _unusable(task):
            self._links[key] = task = asyncio.create_task(self._connect(address))
        # Shielded, because other streams wait for the same connection.
        return await asyncio.shield(task)

    async def _connect(self, address: Address) -> _Link:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            _, link = await loop.create_connection(_Link, address.host, address.port, ssl=self._tls)
        link.greet(address.token)
        return link


async def _send(
    items: AsyncGenerator[Delta | Usage, None],
    link: _Link,
    stream: int,
    failure: Callable[[Exception], Failure],
) -> None:
    try:
        async for item in items:
            link.send(stream, item)
            if not link.writable.is_set():
                await link.drained()
    except ReceiverGone:
        raise
    except Exception as error:  # noqa: BLE001  The one boundary of an engine's process.
        link.send(stream, failure(error))


def _unusable(task: asyncio.Task[_Link]) -> bool:
    if not task.done():
        return False
    return task.cancelled() or task.exception() is not None or task.result().closed


class _Link(asyncio.Protocol):
    """A connection to a receiver. Frames of one turn of the event loop are one write."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._bytes = 0
        self.writable = asyncio.Event()
        self.writable.set()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport is no subclass.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def greet(self, token: bytes) -> None:
        self._transport.write(token)

    def send(self, stream: int, item: Delta | Usage | Failure) -> None:
        if self.closed:
            raise ReceiverGone(LOST)
        if not self._frames:
            self._loop.call_soon(self._flush)
        header, payload = encode(stream, item)
        self._frames += header, payload
        self._bytes += len(payload)
        if self._bytes > FLUSH_BYTES:  # Items that never wait would keep the loop from flushing.
            self._flush()

    async def drained(self) -> None:
        """Wait until the receiver reads more."""
        try:
            async with asyncio.timeout(DRAIN_DEADLINE_S):
                await self.writable.wait()
        except TimeoutError:
            self.abort()
            raise ReceiverGone(LOST) from None

    def abort(self) -> None:
        self._transport.abort()

    def _flush(self) -> None:
        frames, self._frames, self._bytes = self._frames, [], 0
        if frames and not self.closed:
            self._transport.write(b"".join(frames))

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature.
        self.closed = True
        self.writable.set()
