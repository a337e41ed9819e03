"""How processes of one Ray cluster reach each other: on which address, and under which TLS.

Ray 2.60 binds a replica's gRPC server to every interface of the machine. With RAY_AUTH_MODE=token
it unpickles calls that carry the cluster's token, which crosses in the clear; without, all calls.
Bound to the node's own address it is unreachable from outside where that address is loopback;
between nodes, use RAY_USE_TLS and a network policy.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import ray

from models.ray_compat import bind_replica


def bind_to_node() -> None:
    """Make this process's replica listen on its node's address only.

    Call in a deployment's constructor: the server starts when that returns.
    """
    bind_replica(node_address())


def node_address() -> str:
    """The address that this node's processes listen on; loopback where Ray is for one machine."""
    address: str = ray.util.get_node_ip_address()
    return address


@dataclass(frozen=True, slots=True)
class NodeTls:
    """TLS of connections between nodes; None at both ends where Ray runs without it."""

    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None


def between_nodes(environment: Mapping[str, str] = os.environ) -> NodeTls:
    """TLS as Ray's own variables say: mutual, with the cluster's certificate authority.

    A node is trusted because that authority signed for it, so its name is not compared.
    """
    if environment.get("RAY_USE_TLS", "0") != "1":
        return NodeTls()
    contexts = (
        ssl.create_default_context(purpose, cafile=environment["RAY_TLS_CA_CERT"])
        for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH)
    )
    server, client = contexts
    client.check_hostname = False
    for context in (server, client):
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(
            environment["RAY_TLS_SERVER_CERT"], environment["RAY_TLS_SERVER_KEY"]
        )
    return NodeTls(server=server, client=client)
