"""What this code changes in Ray and Ray Serve at run time, and the private parts that it uses.

The only such place, beside the rules for HAProxy's configuration (`serving.ray_cluster.haproxy`).
Each function belongs to one entry of `PATCHES`, which says what it needs of Ray. Ray is imported
late: it reads its environment when it is imported.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from models.patches import Name, Patch, Text

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

READ_AGAINST = (("ray", "2.60.0"),)

_NODE = "ray._private.node"
_REPLICA = "ray.serve._private.replica"
_HTTP_UTIL = "ray.serve._private.http_util"

PATCHES = (
    Patch(
        "no Ray process that is of no use here",
        READ_AGAINST,
        (
            Name(_NODE, "Node.start_monitor"),
            Name(_NODE, "Node.start_log_monitor"),
            Name(_NODE, "Node.start_api_server", ("include_dashboard", "raise_on_failure")),
            Text(_NODE, "self.start_monitor()"),
            Text(_NODE, "self.start_log_monitor()"),
            Text(_NODE, "self.start_api_server("),
        ),
    ),
    Patch(
        "Ray's processes get no signal of the terminal",
        READ_AGAINST,
        (
            Name("ray._private.services", "ConsolePopen"),
            Text("ray._private.services", "process = ConsolePopen("),
        ),
    ),
    Patch(
        "Ray prints nothing to the terminal",
        READ_AGAINST,
        (Name("ray._private.worker", "print_to_stdstream", ("data", "ignore_prefix")),),
    ),
    Patch(
        "replicas listen on their node's address only",
        READ_AGAINST,
        (
            Name(_REPLICA, "add_port_to_grpc_server"),
            Text(_REPLICA, 'add_port_to_grpc_server(self._server, "[::]:0")'),
        ),
    ),
    Patch(
        "a gateway hears at once that Ray Serve stops it",
        READ_AGAINST,
        (
            Name(_REPLICA, "Replica.perform_graceful_shutdown", ("self",)),
            Text(_REPLICA, "self._graceful_shutdown_task is None"),
        ),
    ),
    Patch(
        "a call to stop waits for no place among requests",
        READ_AGAINST,
        (
            Name(_REPLICA, "Replica._start_request", ("self", "request_metadata")),
            Text(_REPLICA, "self._start_request(request_metadata)"),
            Name("ray.serve._private.common", "RequestMetadata.call_method"),
        ),
    ),
    Patch(
        "the gateway alone sets the header of the request id",
        READ_AGAINST,
        (Text(_HTTP_UTIL, "Middleware(RequestIdMiddleware)"),),
    ),
    Patch(
        "the gateway's application is built in its replica",
        READ_AGAINST,
        (Text(_REPLICA, 'SERVE_BUILD_ASGI_APP_METHOD = "__serve_build_asgi_app__"'),),
    ),
    Patch(
        "deploying does not wait for the models",
        READ_AGAINST,
        (Name("ray.serve.api", "_run", ("target", "_blocking", "name", "route_prefix")),),
    ),
    Patch(
        "deploying does not wait for the proxy",
        READ_AGAINST,
        (
            Name("ray.serve._private.constants", "SERVE_CONTROLLER_NAME"),
            Name("ray.serve._private.constants", "SERVE_NAMESPACE"),
            Text("ray.serve._private.default_impl", "name=SERVE_CONTROLLER_NAME"),
        ),
    ),
    Patch(
        "the handle of a stop has an event loop of its own",
        READ_AGAINST,
        (
            Name("ray.serve.handle", "_DeploymentHandleBase._init", ("self",)),
            Name(
                "ray.serve._private.handle_options",
                "InitHandleOptionsBase._run_router_in_separate_loop",
            ),
        ),
    ),
)


def start_fewer_processes() -> None:
    """Have Ray start no monitor and no dashboard, and the others apart from the terminal."""
    from ray._private import node, services, worker  # noqa: PLC0415

    # The autoscaler of clouds, and what tails every log file for a driver that prints none of
    # them: 100 MiB and a per cent of a core.
    node.Node.start_monitor = node.Node.start_log_monitor = lambda _: None
    # What is left of the dashboard without a dashboard: it asks which cloud this is, at a
    # metadata address and by name, also where usage statistics are off.
    node.Node.start_api_server = lambda _, **__: None
    # A signal of the terminal is for us alone: Ray's processes stop last.
    services.ConsolePopen = partial(services.ConsolePopen, start_new_session=True)
    # Ray prints its own retries at shutdown as errors; what matters is in its logs.
    worker.print_to_stdstream = lambda *_, **__: None


def bind_replica(host: str) -> None:
    """Have this process's replica listen on `host`, and not on every interface."""
    from ray.serve._private import replica  # noqa: PLC0415

    original = replica.add_port_to_grpc_server

    def bind(server: object, address: str) -> int:
        port: int = original(server, address.replace("[::]", host))
        return port

    replica.add_port_to_grpc_server = bind


def when_stopped(begin: Callable[[], object]) -> None:
    """Have `begin` called when Ray Serve begins to stop this process's replica.

    Ray Serve stops replicas by itself, to scale down and to deploy anew. It tells user code only
    when every request has ended, and kills the replica where one does not end in time.
    """
    from ray.serve._private import replica  # noqa: PLC0415

    graceful = replica.Replica.perform_graceful_shutdown

    async def told(self: Any) -> None:
        begin()
        await graceful(self)

    replica.Replica.perform_graceful_shutdown = told


def let_in_at_once(method: str) -> None:
    """Have calls of this method take no place among the requests of this process's replica.

    A call waits for its turn like any request, and that never comes while `max_ongoing_requests`
    streams are open.
    """
    from ray.serve._private import replica  # noqa: PLC0415

    start = replica.Replica._start_request  # noqa: SLF001

    @asynccontextmanager
    async def started(self: Any, request: Any) -> AsyncIterator[None]:
        if request.call_method == method:
            yield
            return
        async with start(self, request):
            yield

    replica.Replica._start_request = started  # noqa: SLF001


def leave_request_ids() -> None:
    """Keep Ray Serve from adding a request id header: the gateway sets its own."""
    from ray.serve._private import http_util  # noqa: PLC0415

    http_util.RequestIdMiddleware = _Unwrapped


class _Unwrapped:
    """An ASGI application as it is, in the place of a middleware.

    Uvicorn takes a bound method, which is what Ray Serve has here, for an application of ASGI 2.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def deploy(application: Application, *, name: str) -> None:
    """Deploy an application at `/`. The public `run` waits until every model is loaded."""
    from ray import serve  # noqa: PLC0415

    serve._run(application, name=name, route_prefix="/", _blocking=False)  # noqa: SLF001


def has_controller() -> bool:
    """Whether Ray Serve's controller can be found by its name; it may still be starting."""
    import ray  # noqa: PLC0415
    from ray.serve._private import constants  # noqa: PLC0415

    try:
        ray.get_actor(constants.SERVE_CONTROLLER_NAME, namespace=constants.SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def use_own_loop(handle: DeploymentHandle) -> None:
    """Run a handle's router in a loop that lasts until `serve.shutdown`, which needs it."""
    handle._init(_run_router_in_separate_loop=True)  # noqa: SLF001
