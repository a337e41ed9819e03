"""A blob store that hangs keeps nobody: neither its callers nor anything that has other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from rag.files.blobs import Blobs
from rag.files.blocking_calls import THREADS, StoreTimeout

HANG_S = 60.0

Hang = Callable[[str], "tuple[Blobs, Hanging]"]


class Hanging(MemoryFileSystem):  # type: ignore[misc]
    """Hangs in one method until it is let go."""

    cachable = False

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.let_go = threading.Event()
        self.calls = 0

    def wait(self, method: str) -> None:
        if method == self.method:
            self.calls += 1
            self.let_go.wait()

    def ls(self, path, detail=True, **named):
        self.wait("ls")
        return super().ls(path, detail=detail, **named)

    def open(self, path, mode="rb", **named):
        self.wait(f"open {mode}")
        return super().open(path, mode, **named)

    def mv(self, *args, **named):
        self.wait("mv")
        return super().mv(*args, **named)

    def rm_file(self, path):
        self.wait("rm_file")
        return super().rm_file(path)


@pytest.fixture
def hang() -> Iterator[Callable[[str], tuple[Blobs, Hanging]]]:
    """A blob store that hangs in a method; let go at the end."""
    made: list[Hanging] = []

    def hang(method: str) -> tuple[Blobs, Hanging]:
        blobs = Blobs(f"memory://{uuid4().hex}", deadline_s=0.05)
        blobs._files = Hanging(method)
        made.append(blobs._files)
        return blobs, blobs._files

    yield hang
    for files in made:
        files.let_go.set()


async def content(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def read(blobs: Blobs) -> bytes:
    return b"".join([piece async for piece in blobs.read("acme", "file-1")])


async def local(blobs: Blobs) -> None:
    async with blobs.local("acme", "file-1"):
        pass


async def listed(blobs: Blobs) -> None:
    async for _ in blobs.listed():
        pass


WAYS = {
    "open rb": read,
    "open wb": lambda blobs: blobs.write("acme", "file-1", content(b"a")),
    "mv": lambda blobs: blobs.write("acme", "file-1", content(b"a")),
    "rm_file": lambda blobs: blobs.delete("acme", "file-1"),
    "ls": listed,
}


@pytest.mark.parametrize("method", list(WAYS))
async def test_operation_ends_at_its_deadline(method: str, hang: Hang) -> None:
    blobs, _ = hang(method)
    async with asyncio.timeout(HANG_S):
        with pytest.raises(StoreTimeout):
            await WAYS[method](blobs)


async def test_copy_ends_at_its_deadline(hang: Hang) -> None:
    blobs, _ = hang("open rb")
    async with asyncio.timeout(HANG_S):
        with pytest.raises(StoreTimeout):
            await local(blobs)


async def test_caller_that_is_cancelled_leaves_at_the_deadline(hang: Hang) -> None:
    blobs, files = hang("open rb")
    reading = asyncio.create_task(read(blobs))
    async with asyncio.timeout(HANG_S):
        while not files.calls:  # noqa: ASYNC110  A thread's count.
            await asyncio.sleep(0.001)
        reading.cancel()
        await asyncio.wait({reading})
    assert reading.cancelled()


async def test_blob_whose_writer_gave_up_is_gone_when_the_store_is_back(hang: Hang) -> None:
    blobs, files = hang("mv")
    with pytest.raises(StoreTimeout):
        await blobs.write("acme", "file-1", content(b"a"))
    files.let_go.set()
    async with asyncio.timeout(HANG_S):
        while blobs._threads._left or files.find(blobs._root):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await blobs.write("acme", "file-1", content(b"b"))
    assert await read(blobs) == b"b"


async def test_store_with_every_thread_in_a_call_refuses_at_once(hang: Hang) -> None:
    blobs, files = hang("open rb")
    async with asyncio.timeout(HANG_S):
        await asyncio.gather(*(read(blobs) for _ in range(THREADS)), return_exceptions=True)
        blobs._threads.deadline_s = 10 * HANG_S
        with pytest.raises(StoreTimeout):
            await read(blobs)
    assert files.calls == THREADS


async def test_call_that_found_no_thread_in_time_never_begins(hang: Hang) -> None:
    blobs, files = hang("open rb")
    async with asyncio.timeout(HANG_S):
        await asyncio.gather(*(read(blobs) for _ in range(3 * THREADS)), return_exceptions=True)
    assert files.calls == THREADS
    files.let_go.set()
    async with asyncio.timeout(HANG_S):
        while blobs._threads._left:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.to_thread(blobs._threads._pool.shutdown)
    assert files.calls == THREADS
