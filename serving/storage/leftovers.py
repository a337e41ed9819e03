"""Rows that a stop could not write to SQL: kept in files, and written at the next start.

Lines of text, whose writing may be repeated. Knows nothing of what they say.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from models.threads import Threads


@dataclass(frozen=True, slots=True)
class Leftover:
    """Lines that SQL did not take. They are kept in `file`; None means that they are lost."""

    count: int
    what: str
    file: str | None

    def __str__(self) -> str:
        told = f"{self.count} {self.what} could not be written to the database"
        if self.file is None:
            return f"{told}, nor to any file: they are lost"
        return f"{told}; they are in {self.file}, and the next start writes them"


class Leftovers:
    """The files of one kind of lines.

    Args:
        folders: where a file may be, the best one first.
        name: of the kind, for the names of files.
        what: the lines are called when an operator is told of them.
    """

    def __init__(self, folders: Sequence[Path], name: str, *, what: str) -> None:
        self._folders = folders
        self._name = name
        self._what = what

    @classmethod
    def of(cls, home: Path, name: str, *, what: str) -> Self:
        """Keep them in the state directory or, if its disk is full, in a temporary folder."""
        digest = hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:16]
        spare = Path(tempfile.gettempdir()) / f"ringfence-{os.getuid()}-{digest}-leftovers"
        return cls((home / "leftovers", spare), name, what=what)

    def keep(self, lines: Sequence[str]) -> list[Leftover]:
        """Keep lines in the first folder that takes them, and return a report. Blocks."""
        if not lines:
            return []
        content = "".join(f"{line}\n" for line in lines).encode()
        for folder in self._folders:
            with suppress(OSError):
                file = _written(folder / f"{self._name}-{uuid4().hex}", content)
                return [Leftover(len(lines), self._what, str(file))]
        return [Leftover(len(lines), self._what, None)]

    def files(self) -> list[Path]:
        """The files that are kept now. Blocks."""
        private = filter(_is_private, self._folders)
        return [file for folder in private for file in sorted(folder.glob(f"{self._name}-*.lines"))]


THREADS = Threads("leftovers", 2)
"""The threads for what blocks here."""

NOWHERE = Leftovers((), "", what="rows")
"""Keeps nothing."""


def lines_of(file: Path) -> list[str]:
    """The lines of a file; none if another gateway has written them to SQL meanwhile. Blocks.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return [line for line in file.read_text("utf-8", "replace").split("\n") if line]
    except FileNotFoundError:
        return []


def _written(path: Path, content: bytes) -> Path:
    """A new file that is on the disk, whole or not at all. Raises `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(path.parent):
        raise PermissionError(str(path.parent))
    part, whole = path.with_suffix(".part"), path.with_suffix(".lines")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        part.rename(whole)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return whole


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of our own: in a temporary one anybody may have put a link there."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
