"""What goes over the connection: a token, then frames of many streams.

A frame is the payload's length (4 bytes), the stream's number (8) and its kind (1), all
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


class Kind(IntEnum):
    """What a payload is."""

    DELTA = 0
    USAGE = 1
    FAILURE = 2


@dataclass(frozen=True, slots=True)
class Address:
    """Where the items of one stream go. Whoever knows the token may deliver there."""

    host: str
    port: int
    token: bytes = field(repr=False)
    stream: int


class MalformedFrame(ValueError):
    """The bytes are no frames."""


def encode(stream: int, item: Delta | Usage | Failure) -> tuple[bytes, bytes]:
    """Header and payload of one item."""
    if isinstance(item, bytes):
        return _HEADER.pack(len(item), stream, Kind.DELTA), item
    if isinstance(item, Usage):
        payload, kind = orjson.dumps(asdict(item)), Kind.USAGE
    else:
        told = {"error": item.error.__name__, "message": item.message, "param": item.param}
        payload, kind = orjson.dumps(told), Kind.FAILURE
    return _HEADER.pack(len(payload), stream, kind), payload


class FrameParser:
    """Frames from any split of the byte stream."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Take the next bytes; stream, kind and payload of each frame they complete.

        Raises:
            MalformedFrame: a payload that is too long, or of no known kind.
        """
        if self._left:
            data = self._left + data
        at, end = 0, len(data)
        while end - at >= _HEADER.size:
            length, stream, kind = _HEADER.unpack_from(data, at)
            if length > MAX_PAYLOAD_BYTES or kind > Kind.FAILURE:
                raise MalformedFrame
            start = at + _HEADER.size
            if end - start < length:
                break
            at = start + length
            yield stream, kind, data[start:at]
        self._left = data[at:]


def usage(payload: bytes) -> Usage:
    """The record in a payload of kind `USAGE`."""
    return Usage(**orjson.loads(payload))


def failure(payload: bytes) -> Failure:
    """The failure in a payload of kind `FAILURE`."""
    told = orjson.loads(payload)
    return Failure(_ERRORS[told["error"]], told["message"], told["param"])


def _tree(root: type[EngineError]) -> Iterator[type[EngineError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


_ERRORS = {error.__name__: error for error in _tree(EngineError)}
