"""Where Ray Serve's replicas listen for each other.

Ray 2.60 binds that gRPC server to every interface of the machine, takes pickled calls from whoever
reaches it and asks for no token. Bound to the node's own address it is unreachable from outside
where that address is loopback; between nodes, use RAY_USE_TLS and a network policy.
"""

from __future__ import annotations

import ray
from ray.serve._private import replica

_bind = replica.add_port_to_grpc_server


def bind_to_node() -> None:
    """Make this process's replica listen on its node's address only.

    Call in a deployment's constructor: the server starts when that returns.
    """
    host = ray.util.get_node_ip_address()

    def bind(server: object, address: str) -> int:
        port: int = _bind(server, address.replace("[::]", host))
        return port

    replica.add_port_to_grpc_server = bind
