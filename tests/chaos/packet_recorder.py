"""Records every packet that leaves a network namespace, from its first process to its last.

It reads a device with nothing at its end. At the end, the kernel reports missed packets, so what is
not recorded was not sent. Needs root, which `unshare --net` gives.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_TCP, _UDP, _ICMPV6 = 6, 17, 58
_KERNEL_S_OWN = {*range(133, 138), 143}
"""ICMPv6 types of the kernel's neighbour discovery, which no process requested."""


class PacketRecorder:
    """The recorder of one device; a context manager.

    The kernel queues each packet as it is sent, so that nothing has to run beside the senders.

    Attributes:
        missed: packets that the queue had no room for; known when the scope is left.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.missed = 0

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.bind((self._device, _ETH_P_ALL))
        self._socket.setblocking(False)  # noqa: FBT003  The only way to say it.
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        found = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        _, self.missed = struct.unpack("II", found)
        self._socket.close()

    def take(self) -> list[str]:
        """Return what has left since the last call, such as `tcp 192.0.2.1:80` or `dns
        example.com`."""
        taken = []
        with suppress(BlockingIOError):
            while True:
                packet, (_, _, direction, *_) = self._socket.recvfrom(65_536)
                if direction == socket.PACKET_OUTGOING and (told := _told(packet)):
                    taken.append(told)
        return taken


def _told(frame: bytes) -> str | None:
    """Describe a packet in one line; None for packets of the kernel itself."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    packet = frame[14:]
    if kind == _ETH_P_IP:
        header = (packet[0] & 15) * 4
        return _segment(packet[9], str(ipaddress.ip_address(packet[16:20])), packet[header:])
    if kind == _ETH_P_IPV6:
        if packet[6] in (0, _ICMPV6) and packet[40 + 8 * (packet[6] == 0)] in _KERNEL_S_OWN:
            return None
        return _segment(packet[6], f"[{ipaddress.ip_address(packet[24:40])}]", packet[40:])
    return f"frame of type {kind:#06x}"


def _segment(protocol: int, address: str, segment: bytes) -> str:
    if protocol not in (_TCP, _UDP):
        return f"protocol {protocol} {address}"
    (port,) = struct.unpack_from("!H", segment, 2)
    if protocol == _UDP and port == 53:
        return f"dns {_question(segment[8:])}"
    return f"{'tcp' if protocol == _TCP else 'udp'} {address}:{port}"


def _question(message: bytes) -> str:
    """Return the name that a DNS message queries (RFC 1035, 4.1.2)."""
    labels, at = [], 12
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return ".".join(labels)
