"""The blob store: bytes of files by tenant and id, in a directory or a store that fsspec supports.

A blob appears completely or not at all. Access rights are checked elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Literal, TypeVar
from uuid import uuid4

from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from rag.errors import NotThere
from rag.files.blocking_calls import DEADLINE_S, CallSequence, StoreThreads

T = TypeVar("T")

PIECE = 1024 * 1024
"""Bytes that are read or written at a time."""

DRAFTS = ".drafts"
"""Directory of drafts, beside the tenants' directories. No tenant's name begins with a dot."""

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class WrittenBlob:
    """Size and SHA-256 (hexadecimal) of a blob that was written."""

    size: int
    sha256: str


class Blobs:
    """Stores blobs below one root. Blocking calls run in threads.

    Args:
        url: path of a directory, or an fsspec URL such as `s3://bucket/prefix`.
        deadline_s: the most that one call of the store may take, such as a piece read.
    """

    def __init__(self, url: str, *, deadline_s: float = DEADLINE_S) -> None:
        self._threads = StoreThreads("blobs", deadline_s=deadline_s)
        self._files, root = url_to_fs(url)
        self._root = root.rstrip("/")
        self._local = isinstance(self._files, LocalFileSystem)

    async def write(self, tenant: str, file_id: str, pieces: AsyncIterator[bytes]) -> WrittenBlob:
        """Write a blob. Nothing remains if the write fails or is cancelled.

        Raises:
            NotThere: the name is not a valid blob name.
            OSError: the store failed. Errors of `pieces` pass through.
        """
        kind = _LocalDraft if self._local else _Draft
        calls = CallSequence(self._threads)
        draft = kind(self._files, self._at(DRAFTS, uuid4().hex), self._path(tenant, file_id))
        try:
            waiting = bytearray()
            async for piece in pieces:
                waiting += piece
                if len(waiting) >= PIECE:
                    await calls.run(draft.add, bytes(waiting))
                    waiting.clear()
            await calls.run(draft.add, bytes(waiting))
            return await calls.run(draft.finish)
        except BaseException:
            await calls.close(draft.discard)
            raise

    async def read(self, tenant: str, file_id: str) -> AsyncGenerator[bytes]:
        """Read a blob in pieces of 1 MiB.

        Raises:
            NotThere: the blob does not exist; raised before the first piece.
            OSError: the store failed.
        """
        path = self._path(tenant, file_id)
        calls = CallSequence(self._threads)
        scope = ExitStack()  # Entered in the thread, so that a file that opens late is closed too.
        try:
            with _missing_told():
                file = await calls.run(lambda: scope.enter_context(self._files.open(path, "rb")))
            while piece := await calls.run(file.read, PIECE):
                yield piece
        finally:
            await calls.close(scope.close)

    @asynccontextmanager
    async def local(self, tenant: str, file_id: str) -> AsyncGenerator[Path]:
        """Provide a blob as a local file: the blob itself, or a copy that is removed afterwards.

        Raises:
            NotThere: the blob does not exist.
            OSError: the store failed.
        """
        path = self._path(tenant, file_id)
        if self._local:
            if not await self._run(os.path.isfile, path):
                raise NotThere("No such file.")
            yield Path(path)
            return
        calls, scope = CallSequence(self._threads), ExitStack()
        try:
            directory = await calls.run(scope.enter_context, tempfile.TemporaryDirectory())
            copy = Path(directory, file_id)
            file = await calls.run(lambda: scope.enter_context(copy.open("xb")))
            async with aclosing(self.read(tenant, file_id)) as pieces:
                async for piece in pieces:
                    await calls.run(file.write, piece)
            await calls.run(file.close)
            yield copy
        finally:
            await calls.close(scope.close)

    async def delete(self, tenant: str, file_id: str) -> None:
        """Remove a blob, if it exists.

        Raises:
            NotThere: the name is not a valid blob name.
            OSError: the store failed.
        """
        await self._run(self._remove, self._path(tenant, file_id))

    async def listed(self) -> AsyncGenerator[tuple[str, str, float]]:
        """Yield tenant, id and modification time (Unix seconds) of every blob, in no order.

        Raises:
            OSError: the store failed.
        """
        for tenant in await self._run(self._names, self._root, "directory"):
            if _TENANT.fullmatch(tenant):
                async for file_id, written_at in self._dated(tenant):
                    if _FILE.fullmatch(file_id):
                        yield tenant, file_id, written_at

    async def sweep_drafts(self, older_than: float) -> None:
        """Remove drafts of writers that crashed.

        Args:
            older_than: Unix seconds; drafts written to since then stay.

        Raises:
            OSError: the store failed.
        """
        async for name, written_at in self._dated(DRAFTS):
            if written_at < older_than:
                await self._run(self._remove, self._at(DRAFTS, name))

    def _path(self, tenant: str, file_id: str) -> str:
        if not (_TENANT.fullmatch(tenant) and _FILE.fullmatch(file_id)):
            raise NotThere("No such file.")
        return self._at(tenant, file_id)

    def _at(self, *names: str) -> str:
        return "/".join((self._root, *names))

    def _names(self, path: str, kind: Literal["file", "directory"]) -> list[str]:
        """List the names in a directory; empty if it does not exist."""
        self._files.invalidate_cache()
        try:
            found = self._files.ls(path, detail=True)
        except FileNotFoundError:
            return []
        return [_name(one["name"]) for one in found if one["type"] == kind]

    async def _dated(self, directory: str) -> AsyncGenerator[tuple[str, float]]:
        """Yield the files of a directory with their modification times."""
        for name in await self._run(self._names, self._at(directory), "file"):
            modified = await self._run(self._modified, self._at(directory, name))
            if modified is not None:
                yield name, modified

    def _modified(self, path: str) -> float | None:
        with suppress(FileNotFoundError):
            modified: datetime = self._files.modified(path)
            return modified.timestamp()
        return None

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return await CallSequence(self._threads).run(call, *args)

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(path)


class _Draft:
    """A blob that is being written, under a name that no reader uses. All calls block."""

    def __init__(self, files: AbstractFileSystem, draft: str, target: str) -> None:
        self._files = files
        self._at, self._target = draft, target
        self._hash = hashlib.sha256()
        self._size = 0
        self._file: IO[bytes] | None = None

    def add(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._open(self._at)
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def finish(self) -> WrittenBlob:
        self._close()
        self._move()
        return WrittenBlob(self._size, self._hash.hexdigest())

    def discard(self) -> None:
        """Remove everything, even a blob already moved into place when its writer was cancelled."""
        with suppress(OSError):
            self._close()
        with suppress(FileNotFoundError):
            self._files.rm_file(self._at)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self, path: str) -> IO[bytes]:
        self._files.makedirs(_parent(path), exist_ok=True)
        opened: IO[bytes] = self._files.open(path, "wb")
        return opened

    def _move(self) -> None:
        self._files.makedirs(_parent(self._target), exist_ok=True)
        self._files.mv(self._at, self._target)
        self._at = self._target


class _LocalDraft(_Draft):
    """A draft on the local disk: readable by our user only, and safe against power loss."""

    def _open(self, path: str) -> IO[bytes]:
        _private_directory(Path(path).parent)
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def _close(self) -> None:
        if self._file is not None and not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
        super()._close()

    def _move(self) -> None:
        directory = Path(self._target).parent
        _private_directory(directory)
        Path(self._at).replace(self._target)
        self._at = self._target
        _keep_names(directory)


def _private_directory(directory: Path) -> None:
    """Create a directory with mode 0700, and its parent if necessary."""
    if directory.is_dir():
        return
    root = directory.parent
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    _keep_names(root)


def _keep_names(directory: Path) -> None:
    """Make the entries of a directory survive a power loss."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


@contextmanager
def _missing_told() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotThere("No such file.") from None
