"""Ray on this machine: started, used and stopped so that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import random
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from models.ray_compat import has_controller, start_fewer_processes, use_own_loop
from serving.config import QUIET_ENVIRONMENT, Settings, export_environment

APPLICATION = "ringfence"
"""Name of the Serve application."""

GATEWAY = "Gateway"
"""Name of the deployment that clients reach."""

SERVE_FLAGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # A reload, for a new replica, must not cut streams that are older than two minutes.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
    "RAY_worker_niceness": "0",
    "RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK": "0",
}
"""How Ray Serve runs: HAProxy in front, gRPC between deployments, one event loop a replica."""

LOCAL_FLAGS = {
    # Ray's own switch for "this machine only": every port of it then listens on loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # At Ray's 0.1 s its controller takes 4 % of a core from the engine all the time.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # No balancer elsewhere has to notice that we are going.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
}
"""Flags that are added where Ray is started here and not joined."""

REPLICA_PORTS = 32
"""Ports for gateway replicas behind HAProxy; a replica that restarts takes the next one."""

PROXY_DEADLINE_S = 5.0
"""Time for clients to take the last bytes of their answers."""

STOP_DEADLINE_S = 20.0

CONTROLLER_POLL_S = 0.05

STATUS_POLL_S = 0.5
"""Each look takes 20 ms of CPU, of which a start has too little."""


def prepare_environment(settings: Settings) -> None:
    """Set what Ray reads at import. Call before anything imports ray."""
    runtime = Path(tempfile.mkdtemp(prefix="ringfence-"))
    atexit.register(shutil.rmtree, runtime, ignore_errors=True)
    metrics_port = _free_block(3 + REPLICA_PORTS)
    stats_port, fallback_port, first_port = range(metrics_port + 1, metrics_port + 4)
    export_environment(
        QUIET_ENVIRONMENT
        | SERVE_FLAGS
        | ({} if settings.ray.address else LOCAL_FLAGS)
        | {
            "RINGFENCE_HOME": str(settings.home),
            "VLLM_RPC_BASE_PATH": str(runtime),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_port + REPLICA_PORTS - 1),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(
                Path(sys.executable).with_name("ringfence-haproxy")
            ),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(runtime / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(runtime / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(runtime / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(runtime),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(runtime / "server-state"),
        }
    )


def why_failed(application: Any) -> str:
    """The last error of each deployment that could not start. For the operator, not a client."""
    told = [
        f"{name} did not start: {_reason(deployment.message)}"
        for name, deployment in application.deployments.items()
        if deployment.status == "DEPLOY_FAILED"
    ]
    return "\n".join(told) or "the application could not be deployed"


def failed_attempts(application: Any) -> set[str]:
    """Return the errors of starts that Ray Serve tries again."""
    return {
        f"{name} did not start: {_reason(deployment.message)}"
        for name, deployment in application.deployments.items()
        if deployment.status == "UPDATING" and "failed to start" in deployment.message
    }


def _reason(message: str) -> str:
    """The reason in what Ray Serve says of a deployment: an engine's own sentence, or an error."""
    if sentences := re.findall(r"(?m)^[\w.]*EngineStartFailed: (.*)$", message):
        return str(sentences[-1])
    errors = re.findall(r"(?m)^[\w.]*(?:Error|Exception): .*$", message)
    return str(errors[-1]) if errors else "no reason was given"


def _free_block(count: int) -> int:
    """First of `count` ports in a row that nothing listens on now, below the ephemeral ones.

    One of those may be taken by whoever connects before it is bound, seconds later.
    """
    for first in random.sample(range(20_000, 30_000, count), k=100):
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for port in range(first, first + count):
                probes.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise ApplicationFailed(f"no {count} free ports in a row between 20000 and 30000")


def _name(process: psutil.Process) -> str:
    """A process's name; empty when it is gone."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def wait_for_controller(started: Future[Any], found: Callable[[], bool] = has_controller) -> bool:
    """Wait until Ray Serve's controller can be found; false if its start failed before that.

    Args:
        started: done when Ray Serve has started or failed to.
        found: whether the controller can be found now.
    """
    while not started.done():
        if found():
            return True
        time.sleep(CONTROLLER_POLL_S)
    return started.exception() is None


class ApplicationFailed(Exception):
    """The application does not come up; the message says which part, why, and where logs are."""


class Cluster:
    """The Ray cluster of one `ringfence serve`.

    Args:
        settings: where to listen and how much to reserve.
        spared: a child of ours that is not the cluster's, and is not stopped with it.
    """

    def __init__(self, settings: Settings, *, spared: Callable[[], int | None]) -> None:
        self._settings = settings
        self._spared = spared
        self._started: dict[int, psutil.Process] = {}
        self._log_directory: Path | None = None

    def start(self, on_controller: Callable[[str], None]) -> None:
        """Start Ray (or join the configured cluster) and Serve's controller and proxy.

        Args:
            on_controller: told the cluster's address as soon as another process can join it and
                deploy, which is while the proxy starts.
        """
        import ray  # noqa: PLC0415  After the environment is set.
        from ray import serve  # noqa: PLC0415

        start_fewer_processes()
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._settings.ray.address:
            context = ray.init(address=self._settings.ray.address, **options)
        else:
            context = ray.init(
                num_cpus=self._logical_cpus(),
                include_dashboard=False,
                object_store_memory=self._settings.ray.object_store_bytes,
                **options,
            )
        self._log_directory = Path(context.address_info["session_dir"]) / "logs" / "serve"
        server = self._settings.server
        http_options = {"host": server.host, "port": server.port}
        with ThreadPoolExecutor(1, "start Ray Serve") as starting:
            started = starting.submit(serve.start, http_options=http_options)
            if wait_for_controller(started):
                on_controller(str(context.address_info["address"]))
            started.result()
        self.note_processes()

    def wait_until_running(self, deadline_s: float, on_retry: Callable[[str], None]) -> None:
        """Wait until every deployment of the application has a replica that answers.

        Args:
            deadline_s: for all of them.
            on_retry: told once of each reason for which a replica is started again.

        Raises:
            ApplicationFailed: a deployment could not start, or not in time.
        """
        from ray import serve  # noqa: PLC0415

        deadline = time.monotonic() + deadline_s
        told: set[str] = set()
        while time.monotonic() < deadline:
            application = serve.status().applications.get(APPLICATION)
            if application is not None and application.status == "RUNNING":
                return
            if application is not None and application.status == "DEPLOY_FAILED":
                raise ApplicationFailed(
                    f"{why_failed(application)}\nThe logs are in {self._log_directory}"
                )
            for failure in failed_attempts(application) - told if application else ():
                on_retry(failure)
                told.add(failure)
            time.sleep(STATUS_POLL_S)
        raise ApplicationFailed(f"the models were not ready in {deadline_s:g} s")

    def note_processes(self) -> None:
        """Remember our descendants, for `stop`: some lose their parent when it dies."""
        spared = self._spared()
        for process in psutil.Process().children(recursive=True):
            if process.pid != spared:
                self._started[process.pid] = process

    def has_gateways(self) -> bool:
        """Whether a gateway runs, also while models are loaded; true where that is not known."""
        import ray  # noqa: PLC0415
        from ray import serve  # noqa: PLC0415
        from ray.exceptions import RayError  # noqa: PLC0415

        if not ray.is_initialized():
            return False
        try:
            application = serve.status().applications.get(APPLICATION)
        except RayError:
            return True
        gateways = application and application.deployments.get(GATEWAY)
        return gateways is not None and gateways.replica_states.get("RUNNING", 0) > 0

    async def stop_gateways(
        self, drain_s: float, *, timeout_s: float, hurry: asyncio.Event
    ) -> list[Any]:
        """Have every gateway stop (see `Gateway.stop`).

        Args:
            drain_s: for open requests to end.
            timeout_s: for everything after that.
            hurry: set when open requests are to be ended at once.

        Returns:
            What each gateway reports, or the error in the place of a report.

        Raises:
            ApplicationFailed: they cannot be reached.
        """
        from ray import serve  # noqa: PLC0415
        from ray.exceptions import RayError  # noqa: PLC0415
        from ray.serve.exceptions import RayServeException  # noqa: PLC0415

        def stopping(drain_s: float) -> asyncio.Task[list[Any]]:
            asked = gateways.broadcast("stop", drain_s)
            reports = asked.results_async(timeout_s=drain_s + timeout_s, return_exceptions=True)
            return asyncio.create_task(reports)

        try:
            gateways = serve.get_deployment_handle(GATEWAY, APPLICATION)
            use_own_loop(gateways)
            calm, hurried = stopping(drain_s), asyncio.create_task(hurry.wait())
            await asyncio.wait({calm, hurried}, return_when=asyncio.FIRST_COMPLETED)
            return await (calm if calm.done() else stopping(0.0))
        except (TimeoutError, RayError, RayServeException) as error:
            raise ApplicationFailed(
                f"the gateways could not be asked to stop ({type(error).__name__})"
            ) from error

    def _finish_connections(self) -> None:
        """Let HAProxy pass on what it has of answers: Ray Serve kills it at once."""
        proxies = [one for one in self._started.values() if _name(one) == "haproxy"]
        for proxy in proxies:
            with contextlib.suppress(psutil.NoSuchProcess):
                proxy.send_signal(signal.SIGUSR1)  # It ends with its last connection.
        psutil.wait_procs(proxies, timeout=PROXY_DEADLINE_S)

    def stop(self, on_phase: Callable[[str], None]) -> None:
        """Stop Ray Serve, Ray, and the remaining processes that we started."""
        import ray  # noqa: PLC0415
        from ray import serve  # noqa: PLC0415
        from ray.exceptions import RayError  # noqa: PLC0415

        self.note_processes()
        if ray.is_initialized():
            on_phase("Stopping Ray")
            self._finish_connections()
            with contextlib.suppress(TimeoutError, RayError):  # The processes are ended below.
                serve.shutdown()
            ray.shutdown()
        _, alive = psutil.wait_procs(self._started.values(), timeout=STOP_DEADLINE_S / 2)
        for process in alive:
            process.terminate()
        _, alive = psutil.wait_procs(alive, timeout=STOP_DEADLINE_S / 2)
        for process in alive:
            process.kill()

    def _logical_cpus(self) -> int:
        """Ray's bookkeeping, not real cores: an engine's placement group asks for two."""
        settings = self._settings
        engines = sum(3 * (spec.max_replicas or spec.replicas) for spec in settings.models)
        return settings.ray.logical_cpus or engines + settings.server.gateway_replicas + 1
