"""The walk of `ringfence ingest`: finds files, and paths that it cannot take. Opens none."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

MAX_PATH = 512
"""Most characters that an attribute of a file in a store may have."""

NOT_A_FILE = "not a regular file"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file. `path` is what the store knows it by, with slashes."""

    path: str
    file: Path


@dataclass(frozen=True, slots=True)
class Trouble:
    """A file or folder that cannot be taken. Nothing is known of the paths below it."""

    path: str
    reason: str

    def hides(self, path: str) -> bool:
        """Whether a path is this one or lies below it."""
        return path == self.path or path.startswith(f"{self.path}/") or not self.path


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder whose entries are to be looked at."""

    path: str
    place: Path


def walk(root: Path, path: str, exclude: Sequence[str]) -> Iterator[FoundFile | Trouble]:
    """Find the files below a folder, or the one file that `root` is.

    Hidden files and folders are left out, and so are symbolic links that lead somewhere.

    Args:
        root: an absolute path.
        path: what the store knows it by; paths of what is below begin with it.
        exclude: shell patterns of names or paths to leave out.
    """
    if not root.is_dir():
        yield _refused(path) or _only(root, path)
        return
    folders = [_Folder(path, root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder.place) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            yield Trouble(folder.path, reason(error))
            continue
        for entry in entries:
            below = f"{folder.path}/{entry.name}" if folder.path else entry.name
            if entry.name.startswith(".") or _matches(entry.name, below, exclude):
                continue
            look = _looked_at(entry, below)
            if isinstance(look, _Folder):
                folders.append(look)
            elif look is not None:
                yield look


def reason(error: OSError) -> str:
    """Return the message of a system error, without the path."""
    return error.strerror or type(error).__name__


def is_utf8(text: str) -> bool:
    """Whether a name of the file system, or an argument, is valid UTF-8."""
    return not any("\ud800" <= one <= "\udfff" for one in text)


def shown(name: str) -> str:
    """A name as text: bytes of it that are no UTF-8 are escaped."""
    return name.encode(errors="backslashreplace").decode()


def _only(root: Path, path: str) -> FoundFile | Trouble:
    """Describe a root that is not a folder. A root that has just gone is not an empty source."""
    if root.is_file():
        return FoundFile(path, root)
    return Trouble(path, NOT_A_FILE if root.exists() else os.strerror(errno.ENOENT))


def _looked_at(entry: os.DirEntry[str], path: str) -> FoundFile | Trouble | _Folder | None:
    """Describe an entry of a folder. Returns None for a link to something that exists."""
    place = Path(entry.path)
    try:
        if entry.is_symlink():
            # One that leads nowhere is a file that somebody expects to be there.
            return None if place.exists() else Trouble(path, "a broken symbolic link")
        if refused := _refused(path):
            return refused
        if entry.is_dir(follow_symlinks=False):
            return _Folder(path, place)
        if entry.is_file(follow_symlinks=False):
            return FoundFile(path, place)
    except OSError as error:
        return Trouble(path, reason(error))
    return Trouble(path, NOT_A_FILE)


def _refused(path: str) -> Trouble | None:
    """Say why a path cannot be sent to a server. Returns None if it can."""
    if not is_utf8(path):
        return Trouble(path, "its name is not valid UTF-8")
    if len(path) > MAX_PATH:
        return Trouble(path, f"its path is longer than {MAX_PATH} characters")
    return None


def _matches(name: str, path: str, exclude: Sequence[str]) -> bool:
    return any(fnmatch(name, glob) or fnmatch(path, glob) for glob in exclude)
