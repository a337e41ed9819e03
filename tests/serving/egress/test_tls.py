from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving.egress.providers.openai_provider import OpenAIProvider, openai_destination
from serving.egress.providers.provider import (
    NOT_CONNECTED,
    ProviderUnavailable,
)
from serving.egress.providers.transport import Connections
from tests.serving.egress.calls import (
    KEY,
    collect,
    deltas,
)
from tests.serving.egress.standin import StandIn
from tests.serving.egress.wire_format import HELLO, sse, streams

WHOLE = streams(sse(*HELLO.openai()))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a self-signed certificate of 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "stand-in.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_certificate_that_nobody_vouches_for_is_not_accepted(
    server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with StandIn(WHOLE, tls=server_tls) as server:
        provider = OpenAIProvider(Connections(openai_destination(KEY, server.url + "/v1")))
        with pytest.raises(ProviderUnavailable) as caught:
            await collect(provider)
        await provider.aclose()

    assert caught.value.code == NOT_CONNECTED
    assert server.received == []


async def test_an_authority_of_ones_own_can_vouch(
    server_tls: ssl.SSLContext, certificate: Path
) -> None:
    tls = ssl.create_default_context(cafile=certificate)
    async with StandIn(WHOLE, tls=server_tls) as server:
        provider = OpenAIProvider(Connections(openai_destination(KEY, server.url + "/v1"), tls=tls))
        chunks, _ = await collect(provider)
        await provider.aclose()
        await asyncio.sleep(0)

    assert deltas(chunks) == "Hello there"
