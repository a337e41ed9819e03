"""The wire format of a delivery connection: a token, then frames of many streams.

A frame consists of the payload's length (4 bytes), the stream's number (8) and its kind (1), all
little-endian, and the payload.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import IntEnum

import orjson

from models.engine import Delta, EngineError, Failure, Usage

TOKEN_BYTES = 32
MAX_PAYLOAD_BYTES = 64 * 2**20
LOST = "The connection to the model's engine was lost."

_HEADER = struct.Struct("<IQB")


class FrameKind(IntEnum):
    """The type of a payload."""

    DELTA = 0
    USAGE = 1
    FAILURE = 2


@dataclass(frozen=True, slots=True)
class Address:
    """Destination of a stream's items. The token authorises deliveries, so it is not shown."""

    host: str
    port: int
    token: bytes = field(repr=False)
    stream: int


class MalformedFrame(ValueError):
    """The bytes are not valid frames."""


def encode(stream: int, item: Delta | Usage | Failure) -> tuple[bytes, bytes]:
    """Encode an item; returns header and payload."""
    if isinstance(item, bytes):
        return _HEADER.pack(len(item), stream, FrameKind.DELTA), item
    if isinstance(item, Usage):
        payload, kind = orjson.dumps(asdict(item)), FrameKind.USAGE
    else:
        told = {"error": item.error.__name__, "message": item.message, "param": item.param}
        payload, kind = orjson.dumps(told), FrameKind.FAILURE
    return _HEADER.pack(len(payload), stream, kind), payload


class FrameParser:
    """Parses frames from any split of the byte stream."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Process the next bytes; yields stream, kind and payload of each frame that they complete.

        Raises:
            MalformedFrame: a payload is too long or of an unknown kind.
        """
        if self._left:
            data = self._left + data
        at, end = 0, len(data)
        while end - at >= _HEADER.size:
            length, stream, kind = _HEADER.unpack_from(data, at)
            if length > MAX_PAYLOAD_BYTES or kind > FrameKind.FAILURE:
                raise MalformedFrame
            start = at + _HEADER.size
            if end - start < length:
                break
            at = start + length
            yield stream, kind, data[start:at]
        self._left = data[at:]


def usage(payload: bytes) -> Usage:
    """Decode a payload of kind `USAGE`."""
    return Usage(**orjson.loads(payload))


def failure(payload: bytes) -> Failure:
    """Decode a payload of kind `FAILURE`."""
    told = orjson.loads(payload)
    return Failure(_ERRORS[told["error"]], told["message"], told["param"])


def _tree(root: type[EngineError]) -> Iterator[type[EngineError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


_ERRORS = {error.__name__: error for error in _tree(EngineError)}
