"""TLS between nodes follows Ray's variables: mutual, or none."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from models.delivery.receiver import Receiver
from models.delivery.sender import Sender
from models.engine import EngineFailed, Failure, Usage
from models.ray_binding import between_nodes


def certificate(directory: Path) -> dict[str, str]:
    """Create a self-signed certificate that is its own authority."""
    key, cert = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=ringfence", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(cert),
        "RAY_TLS_SERVER_KEY": str(key),
        "RAY_TLS_CA_CERT": str(cert),
    }


def _told(error: Exception) -> Failure:
    return Failure(EngineFailed, type(error).__name__)


async def delivered(receiver: Receiver, sender: Sender) -> Failure | Usage:
    async def items():
        yield Usage(1, 2)

    incoming = receiver.open(first_timeout_s=2, stall_timeout_s=2)
    undelivered = await sender.deliver(items(), incoming.address, failure=_told)
    if undelivered is not None:
        return undelivered
    item = await incoming.take()
    assert isinstance(item, Usage)
    return item


def test_no_tls_where_ray_has_none() -> None:
    assert between_nodes({}).server is None
    assert between_nodes({"RAY_USE_TLS": "0"}).client is None


async def test_tls_carries_items_between_members_of_the_cluster(tmp_path: Path) -> None:
    tls = between_nodes(certificate(tmp_path))
    receiver, sender = Receiver(), Sender(tls=tls.client)
    await receiver.listen("127.0.0.1", tls=tls.server)
    try:
        assert await delivered(receiver, sender) == Usage(1, 2)
    finally:
        sender.close()
        receiver.close()


@pytest.mark.parametrize("client", ["in_the_clear", "without_a_certificate"])
async def test_tls_keeps_others_out(tmp_path: Path, client: str) -> None:
    environment = certificate(tmp_path)
    context = None
    if client == "without_a_certificate":
        context = ssl.create_default_context(cafile=environment["RAY_TLS_CA_CERT"])
        context.check_hostname = False
    receiver, sender = Receiver(), Sender(tls=context)
    await receiver.listen("127.0.0.1", tls=between_nodes(environment).server)
    incoming = receiver.open(first_timeout_s=0.3, stall_timeout_s=1)

    async def items():
        yield b"canary"

    try:
        await sender.deliver(items(), incoming.address, failure=_told)
        with pytest.raises(Exception, match=r"0\.3 s"):
            await incoming.take()
    finally:
        sender.close()
        receiver.close()
