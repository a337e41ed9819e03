"""Which files `ingest` is about: below folders and files that were named, with hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A file here.

    Attributes:
        path: from its root's name on, with slashes; by it the file is known on the server.
        file: where it is.
    """

    path: str
    file: Path

    def sha256(self) -> str:
        """Of its bytes; raises `OSError`."""
        digest = hashlib.sha256()
        with self.file.open("rb") as opened:
            while piece := opened.read(_PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()


def walk(root: Path, exclude: Sequence[str]) -> Iterator[Found]:
    """Files below a folder, or the one that was named, in order.

    Symbolic links are not followed, and hidden files and folders are not looked at.

    Args:
        root: an absolute path.
        exclude: shell patterns of names or of paths from the root's name on.

    Raises:
        OSError: a folder cannot be read.
    """
    if root.is_file():
        yield Found(root.name, root)
        return
    for folder, folders, files in os.walk(root, onerror=_raise):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if _wanted(root, here / name, exclude))
        for name in sorted(files):
            file = here / name
            if _wanted(root, file, exclude) and file.is_file():
                yield Found(_path(root, file), file)


def below(path: str, root: Path) -> bool:
    """Whether a path as the server knows it lies below a root."""
    return path == root.name or path.startswith(f"{root.name}/")


def _wanted(root: Path, file: Path, exclude: Sequence[str]) -> bool:
    if file.name.startswith(".") or file.is_symlink():
        return False
    path = _path(root, file)
    return not any(fnmatch(file.name, glob) or fnmatch(path, glob) for glob in exclude)


def _path(root: Path, file: Path) -> str:
    return f"{root.name}/{file.relative_to(root).as_posix()}"


def _raise(error: OSError) -> None:
    raise error
