"""The embedded Valkey: one per state directory, private, and without loss of data."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import valkey as valkey_client

from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.errors import ValkeyStartFailed
from serving.storage.valkey import Valkey

STARTS = """
import signal, sys, time
from pathlib import Path
from serving.storage.embedded_valkey import EmbeddedValkey

signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
server = EmbeddedValkey(Path(sys.argv[1]))
server.ensure()
print(server.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def started() -> Iterator[list[EmbeddedValkey]]:
    """Servers to stop at the end."""
    servers: list[EmbeddedValkey] = []
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def server(home: Path, started: list[EmbeddedValkey]) -> EmbeddedValkey:
    return start(home, started)


def start(home: Path, started: list[EmbeddedValkey]) -> EmbeddedValkey:
    made = EmbeddedValkey(home)
    started.append(made)
    made.ensure()
    return made


def ask(server: EmbeddedValkey, *words: str) -> object:
    path = server.url.removeprefix("unix://")
    client = valkey_client.Valkey(unix_socket_path=path, socket_timeout=5.0)
    try:
        return client.execute_command(*words)
    finally:
        client.close()


def kill(server: EmbeddedValkey) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert server._process is not None
    server._process.wait(10)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_server_that_runs_is_not_started_again(server: EmbeddedValkey) -> None:
    pid = server.pid
    server.ensure()
    assert (pid is not None, server.pid) == (True, pid)


def test_two_of_one_home_share_a_server(
    server: EmbeddedValkey, home: Path, started: list[EmbeddedValkey]
) -> None:
    second = start(home, started)
    assert (second.url, second.pid) == (server.url, None)
    ask(server, "SET", "told", "by one")
    assert ask(second, "GET", "told") == b"by one"


def test_one_who_only_uses_a_server_does_not_stop_it(
    server: EmbeddedValkey, home: Path, started: list[EmbeddedValkey]
) -> None:
    start(home, started).stop()
    assert ask(server, "PING")


def test_many_that_start_at_once_start_one(home: Path, started: list[EmbeddedValkey]) -> None:
    started += [EmbeddedValkey(home) for _ in range(5)]
    with ThreadPoolExecutor(5) as threads:  # They live on: with its thread a server ends.
        list(threads.map(EmbeddedValkey.ensure, started))
        assert sum(one.pid is not None for one in started) == 1
        assert ask(started[0], "PING")


def test_second_takes_over_when_the_first_is_killed(
    server: EmbeddedValkey, home: Path, started: list[EmbeddedValkey]
) -> None:
    second = start(home, started)
    ask(server, "SET", "kept", "yes")
    kill(server)
    second.ensure()
    server.ensure()
    assert (server.pid, second.pid is not None) == (None, True)
    assert ask(server, "GET", "kept") == b"yes"


def test_two_homes_have_two_servers(tmp_path: Path, started: list[EmbeddedValkey]) -> None:
    one, other = start(tmp_path / "a", started), start(tmp_path / "b", started)
    ask(one, "SET", "mine", "yes")
    assert (one.url != other.url, ask(other, "GET", "mine")) == (True, None)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_data_survives(server: EmbeddedValkey, how: str) -> None:
    ask(server, "SET", "kept", "yes")
    if how == "stop":
        server.stop()
    else:
        kill(server)
        # Nobody listens on the socket file that is left.
        assert Path(server.url.removeprefix("unix://")).is_socket()
    server.ensure()
    assert ask(server, "GET", "kept") == b"yes"


def test_stopped_server_is_gone(server: EmbeddedValkey) -> None:
    pid = server.pid
    assert pid is not None
    server.stop()
    assert server.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.stop()


def test_only_we_can_open_anything_of_it(server: EmbeddedValkey, home: Path) -> None:
    assert mode(home / "valkey") == 0o700
    assert mode(Path(server.url.removeprefix("unix://"))) == 0o700
    assert ask(server, "CONFIG", "GET", "port") in ([b"port", b"0"], {b"port": b"0"})


def test_directory_that_others_can_read_is_made_private(
    home: Path, started: list[EmbeddedValkey]
) -> None:
    (home / "valkey").mkdir(parents=True, mode=0o755)
    start(home, started)
    assert mode(home / "valkey") == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_directory_of_another_user_is_not_used(home: Path) -> None:
    (home / "valkey").mkdir(parents=True)
    os.chown(home / "valkey", 12345, -1)
    with pytest.raises(ValkeyStartFailed, match="not a folder of our own"):
        EmbeddedValkey(home).ensure()


def test_link_in_the_place_of_a_directory_is_not_followed(home: Path, tmp_path: Path) -> None:
    home.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (home / "valkey").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValkeyStartFailed, match="not a folder of our own"):
        EmbeddedValkey(home).ensure()
    assert mode(tmp_path / "elsewhere") == 0o755


def test_home_with_a_long_path_has_its_socket_elsewhere(
    tmp_path: Path, started: list[EmbeddedValkey]
) -> None:
    home = tmp_path / ("long" * 30)
    one, other = start(home, started), EmbeddedValkey(tmp_path / ("long" * 31))
    socket = Path(one.url.removeprefix("unix://"))
    assert (home not in socket.parents, one.url != other.url) == (True, True)
    assert (mode(socket.parent), mode(socket)) == (0o700, 0o700)
    assert EmbeddedValkey(home).url == one.url
    ask(one, "SET", "kept", "yes")
    assert (home / "valkey" / "appendonlydir").is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "ünïcode",
        "user@host:1",
        *("a#b", "a?b", "a%41b"),
    ],
)
async def test_url_leads_to_the_socket_whatever_home_is_called(
    tmp_path: Path, started: list[EmbeddedValkey], name: str
) -> None:
    client = Valkey.open(start(tmp_path / name, started).url, timeout_s=5.0)
    try:
        assert await client.command("ECHO", "here") == b"here"
    finally:
        await client.close()


@contextmanager
def another_process(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start the server from a process in its own group; return it and the server's id."""
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS, str(home)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        yield parent, pid
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def test_interrupt_of_the_terminal_does_not_end_it(
    home: Path, started: list[EmbeddedValkey]
) -> None:
    with another_process(home) as (parent, _):
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"interrupted\n"
        time.sleep(0.3)  # It would take a moment to stop.
        user = start(home, started)
        assert (user.pid, ask(user, "ECHO", "here")) == (None, b"here")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_server_ends_in_order_when_whoever_started_it_is_killed(
    home: Path, started: list[EmbeddedValkey]
) -> None:
    with another_process(home) as (parent, _):
        ask(start(home, started), "SET", "kept", "yes")
        parent.kill()
        parent.wait()
        (user,) = started
        deadline = time.monotonic() + 5
        while user.pid is None and time.monotonic() < deadline:
            user.ensure()  # As every other process of the same home does.
            time.sleep(0.02)
        assert (user.pid is not None, ask(user, "GET", "kept")) == (True, b"yes")


def test_server_that_ends_at_once_is_told_with_its_log(home: Path) -> None:
    (home / "valkey").mkdir(parents=True)
    (home / "valkey" / "appendonlydir").write_text("no directory")
    with pytest.raises(ValkeyStartFailed) as failed:
        EmbeddedValkey(home).ensure()
    log = home / "valkey" / "valkey.log"
    assert str(log) in str(failed.value)
    assert log.read_text()


def test_server_is_gone_when_whoever_started_it_was_killed(tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv, which asks the kernel for it")
    script = (
        "import os, sys; from pathlib import Path\n"
        "from serving.storage.embedded_valkey import EmbeddedValkey\n"
        "server = EmbeddedValkey(Path(sys.argv[1])); server.ensure()\n"
        "print(server.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=False, timeout=120
    )
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(int(told.stdout))
        deadline = time.monotonic() + 10
        while server.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.status() == psutil.STATUS_ZOMBIE
