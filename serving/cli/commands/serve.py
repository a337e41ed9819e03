"""`ringfence serve`: prepare, start, watch, stop."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NoReturn

import typer

from models import prepare
from models.conversion import PreparationFailed
from models.resources.machine import this_machine
from serving import config
from serving.cli.first_key import first_key
from serving.cli.mismatches import tell_mismatches
from serving.cli.options import ConfigOption
from serving.cli.patches import PatchesDoNotFit, check_patches
from serving.cli.progress import Phases, console
from serving.cli.stopping import listen_for_signals, say, stop
from serving.config import Settings
from serving.ray_cluster import cluster
from serving.ray_cluster.local_models import CannotRun, check_files
from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.errors import ValkeyStartFailed

READY_DEADLINE_S = 600.0
DEPLOY_DEADLINE_S = 180.0
LET_IN_DEADLINE_S = 30.0
WATCH_S = 0.5


class StartFailed(Exception):
    """The server cannot start; the message says why and what to do."""


def serve(
    config_file: ConfigOption = None,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Start the backend and keep it running until Ctrl-C."""
    raw = config.read(config.config_path(config_file))
    config.parse(raw)  # Mistakes in the file are told before options are laid over it.
    if host is not None:
        raw["server"] = dict(raw.get("server") or {}) | {"host": host}
    if port is not None:
        config.export_environment({"RINGFENCE_PORT": str(port)})
    settings = config.parse(raw)
    listen_for_signals()
    valkey = EmbeddedValkey(settings.home)
    running = cluster.Cluster(settings, spared=lambda: valkey.pid)
    phases, failed = Phases(), False
    try:
        if own_valkey := settings.storage.valkey is None and settings.ray.address is None:
            valkey.ensure()
            config.export_environment({config.EMBEDDED_VALKEY: valkey.url})
            settings = config.parse(raw)
        _ = settings.valkey_url  # Without one the gateways would not start.
        _start(settings, raw, running, phases)
        listen_for_signals()  # Ray has installed its own.
        _watch(valkey if own_valkey else None)
    except KeyboardInterrupt:
        say("Stopping.")
    except (
        StartFailed, CannotRun, PreparationFailed, PatchesDoNotFit, cluster.ApplicationFailed,
        ValkeyStartFailed,
    ) as error:  # fmt: skip
        for line in str(error).splitlines():
            typer.echo(f"ringfence: {line}", err=True)
        failed = True
    finally:
        whole = stop(settings, running, valkey)
    if failed or not whole:
        raise typer.Exit(1)


def _watch(valkey: EmbeddedValkey | None) -> NoReturn:
    """Start the embedded Valkey again whenever it is gone, until Ctrl-C."""
    while True:
        time.sleep(WATCH_S)
        try:
            if valkey is not None:
                valkey.ensure()
        except ValkeyStartFailed as error:
            typer.echo(f"ringfence: {error}; trying again", err=True)


def _start(
    settings: Settings, raw: dict[str, Any], running: cluster.Cluster, phases: Phases
) -> None:
    _check_port(settings)
    check_files(settings, this_machine())
    for spec in settings.models:
        elsewhere = isinstance(spec.source, str) and settings.ray.address is not None
        if spec.source is None or elsewhere:
            continue
        if prepare.status(spec, settings.home) != "ready":
            with phases.phase(f"Preparing {spec.id} (once)"):
                prepare.prepare(spec, settings.home)
    cluster.prepare_environment(settings)
    with _deployer(raw) as deployer:
        check_patches(settings)  # Imports Ray, whose environment is set by now.
        with phases.phase("Starting Ray"):
            running.start(lambda address: _tell(deployer, address))
        key = first_key(settings)
        with phases.phase("Deploying the application"):
            engines = _deployed(deployer)
    for engine in engines:
        console.print(f"    {engine}")
    with phases.phase(f"Loading {', '.join(spec.id for spec in settings.models)}"):
        running.wait_until_running(
            READY_DEADLINE_S, lambda failure: console.print(f"    {failure} Trying again.")
        )
        _wait_until_let_in(settings)
    running.note_processes()
    _greet(settings, key, phases)
    tell_mismatches(settings)


def _wait_until_let_in(settings: Settings) -> None:
    """Wait until a gateway knows that the models are there; Ray knows it a moment before."""
    import httpx  # noqa: PLC0415  Not before there is something to wait for.

    deadline = time.monotonic() + LET_IN_DEADLINE_S
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            url = f"{settings.server.local_url}/ready"
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)


def _check_port(settings: Settings) -> None:
    server = settings.server
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            raise StartFailed(
                f"cannot listen on {server.host}:{server.port}: {error.strerror}. "
                "Choose another with --port or RINGFENCE_PORT."
            ) from None


@contextmanager
def _deployer(raw: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """The process that deploys (see `serving.deploying`), at work on its imports already."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.deploying"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            _tell(process, json.dumps(raw))
            yield process
        finally:
            process.kill()


def _tell(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to a process; if it has ended, its exit says why."""
    assert process.stdin is not None  # noqa: S101  It is a pipe.
    with suppress(BrokenPipeError):
        process.stdin.write(f"{line}\n")
        process.stdin.flush()


def _deployed(process: subprocess.Popen[str]) -> list[str]:
    """Wait until the application is deployed to the cluster whose address the process was told.

    Returns:
        How each engine runs on this machine, for the operator.
    """
    try:
        answer, errors = process.communicate(timeout=DEPLOY_DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise StartFailed(f"the application was not deployed in {DEPLOY_DEADLINE_S:g} s") from None
    if process.returncode != 0:
        last = errors.strip().splitlines()[-1:] or ["no reason given"]
        raise StartFailed(f"the application could not be deployed: {last[0]}")
    told = json.loads(answer)
    if problems := told.get("problems"):
        raise StartFailed("\n".join(problems))
    engines: list[str] = told["engines"]
    return engines


def _greet(settings: Settings, key: str | None, phases: Phases) -> None:
    """Print the server's address and how to use it, on standard output."""
    url = settings.server.local_url
    model = next((s.id for s in settings.models if s.task == "generate"), settings.models[0].id)
    shown = key or "$RINGFENCE_API_KEY"
    body = json.dumps(
        {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    )
    typer.echo(
        f"\nReady after {phases.elapsed_s():.0f} s. Ctrl-C stops it.\n"
        f"  URL  {url}/v1\n"
        f"  Key  {shown}\n\n"
        f"curl -N {url}/v1/chat/completions \\\n"
        f"  -H 'Authorization: Bearer {shown}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d '{body}'\n"
    )
    if any(spec.simulated for spec in settings.models):
        typer.echo("A simulated model is served: its answers are made up.", err=True)
