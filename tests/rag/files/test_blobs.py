"""Blobs: complete or absent, on disk and in any other store that fsspec supports."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import fsspec  # type: ignore[import-untyped]
import pytest

from rag.errors import NotThere
from rag.files.blobs import DRAFTS, PIECE, Blobs
from serving.access.names import is_name

LARGE = os.urandom(2 * PIECE + 7)
NAMES = [
    ("..", "file-1"), (".", "file-1"), (DRAFTS, "file-1"), ("acme/x", "file-1"), ("", "file-1"),
    ("acme\n", "file-1"), ("/etc", "passwd"), ("acme", "../file-1"), ("acme", ".."), ("acme", ""),
    ("acme", "a/b"), ("acme", "a\\b"), ("acme", "file.1"), ("acme", "file-1\x00"),
    ("acme", "f" * 65), ("t" * 65, "file-1"),
]  # fmt: skip


@pytest.fixture(params=["directory", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return f"{tmp_path}/state/files"
    return f"memory://{uuid4().hex}/files"


@pytest.fixture
def blobs(url: str) -> Blobs:
    return Blobs(url)


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        await asyncio.sleep(0)
        yield piece


async def content(blobs: Blobs, tenant: str, file_id: str) -> bytes:
    return b"".join([piece async for piece in blobs.read(tenant, file_id)])


def everything(url: str) -> list[str]:
    """List all files below the root of a store, drafts included."""
    files, root = fsspec.core.url_to_fs(url)
    return sorted(path.removeprefix(root).lstrip("/") for path in files.find(root))


@pytest.mark.parametrize(
    "given",
    [
        (b"ab", b"", b"c"),
        (),
        (LARGE,),
        tuple(LARGE[at : at + 5000] for at in range(0, 10**6, 5000)),
    ],
    ids=["small", "empty", "large", "many"],
)
async def test_blob_is_read_as_it_was_written(blobs: Blobs, given: tuple[bytes, ...]) -> None:
    whole = b"".join(given)
    written = await blobs.write("acme", "file-1", pieces(*given))
    assert (written.size, written.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert await content(blobs, "acme", "file-1") == whole


async def test_large_blob_is_read_in_pieces(blobs: Blobs) -> None:
    await blobs.write("acme", "file-1", pieces(LARGE))
    assert [len(piece) async for piece in blobs.read("acme", "file-1")] == [PIECE, PIECE, 7]


async def test_blobs_of_the_same_id_are_apart_by_tenant(blobs: Blobs) -> None:
    await blobs.write("acme", "file-1", pieces(b"ours"))
    await blobs.write("other", "file-1", pieces(b"theirs"))
    await blobs.delete("other", "file-1")
    assert await content(blobs, "acme", "file-1") == b"ours"
    with pytest.raises(NotThere):
        await content(blobs, "other", "file-1")


async def test_writer_that_fails_in_the_middle_leaves_nothing(blobs: Blobs, url: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield LARGE
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.write("acme", "file-1", broken())
    assert everything(url) == []


async def test_writer_that_is_cancelled_leaves_nothing(blobs: Blobs, url: str) -> None:
    there = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield LARGE
        there.set()
        await asyncio.sleep(60)

    writing = asyncio.create_task(blobs.write("acme", "file-1", endless()))
    await there.wait()
    assert [name.split("/")[0] for name in everything(url)] == [DRAFTS]
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert everything(url) == []


@pytest.mark.parametrize("patience", [number / 2000 for number in range(20)])
async def test_writer_that_is_cancelled_at_any_moment_leaves_all_or_nothing(
    blobs: Blobs, url: str, patience: float
) -> None:
    writing = asyncio.create_task(blobs.write("acme", "file-1", pieces(LARGE, LARGE)))
    await asyncio.sleep(patience)
    for _ in range(3):
        writing.cancel()
        await asyncio.sleep(0)
    try:
        await writing
    except asyncio.CancelledError:
        assert everything(url) == []
    else:
        assert everything(url) == ["acme/file-1"]


async def test_blob_is_not_seen_before_it_is_whole(blobs: Blobs) -> None:
    async def looking() -> AsyncIterator[bytes]:
        yield LARGE
        with pytest.raises(NotThere):
            await content(blobs, "acme", "file-1")
        assert [one async for one in blobs.listed()] == []
        yield b"end"

    assert (await blobs.write("acme", "file-1", looking())).size == len(LARGE) + 3


async def test_blob_that_is_missing_is_told_before_its_first_piece(blobs: Blobs) -> None:
    with pytest.raises(NotThere):
        await anext(blobs.read("acme", "file-1"))


async def test_reader_that_stops_early_closes_the_blob(blobs: Blobs) -> None:
    await blobs.write("acme", "file-1", pieces(LARGE))
    reading = blobs.read("acme", "file-1")
    assert len(await anext(reading)) == PIECE
    await reading.aclose()
    await blobs.delete("acme", "file-1")


async def test_deletion_of_what_is_not_there_does_nothing(blobs: Blobs, url: str) -> None:
    await blobs.write("acme", "file-1", pieces(b"a"))
    for _ in range(2):
        await blobs.delete("acme", "file-1")
    assert everything(url) == []


@pytest.mark.parametrize(("tenant", "file_id"), NAMES)
async def test_tampered_name_reaches_nothing(
    blobs: Blobs, url: str, tenant: str, file_id: str
) -> None:
    await blobs.write("acme", "file-1", pieces(b"a"))
    with pytest.raises(NotThere):
        await blobs.write(tenant, file_id, pieces(b"b"))
    with pytest.raises(NotThere):
        await content(blobs, tenant, file_id)
    with pytest.raises(NotThere):
        await blobs.delete(tenant, file_id)
    with pytest.raises(NotThere):
        async with blobs.local(tenant, file_id):
            pass
    assert everything(url) == ["acme/file-1"]


def test_no_tenant_can_be_called_as_the_drafts_are() -> None:
    assert not is_name(DRAFTS)


async def test_blob_can_be_had_as_a_file(blobs: Blobs) -> None:
    await blobs.write("acme", "file-1", pieces(LARGE))
    async with blobs.local("acme", "file-1") as path:
        assert path.read_bytes() == LARGE
    assert await content(blobs, "acme", "file-1") == LARGE


async def test_copy_of_a_blob_is_private_and_goes_when_it_is_let_go() -> None:
    blobs = Blobs(f"memory://{uuid4().hex}")
    await blobs.write("acme", "file-1", pieces(b"a"))
    with suppress(ZeroDivisionError):
        async with blobs.local("acme", "file-1") as path:
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            _ = 1 / 0
    assert not path.parent.exists()


async def test_file_of_a_blob_that_is_missing_is_not_there(blobs: Blobs) -> None:
    with pytest.raises(NotThere):
        async with blobs.local("acme", "file-1"):
            pass


async def test_list_has_each_blob_and_when_it_was_written(blobs: Blobs) -> None:
    await blobs.write("acme", "file-1", pieces(b"a"))
    await blobs.write("acme", "file-2", pieces(b"b"))
    await blobs.write("b.-_", "file-1", pieces(b"c"))
    found = [one async for one in blobs.listed()]
    names = sorted((tenant, file_id) for tenant, file_id, _ in found)
    assert names == [("acme", "file-1"), ("acme", "file-2"), ("b.-_", "file-1")]
    assert all(abs(at - time.time()) < 60 for *_, at in found)


async def test_store_that_was_never_written_to_has_no_blobs_and_no_drafts(blobs: Blobs) -> None:
    assert [one async for one in blobs.listed()] == []
    await blobs.sweep_drafts(time.time())


async def test_list_leaves_out_what_is_not_ours(blobs: Blobs, url: str) -> None:
    await blobs.write("acme", "file-1", pieces(b"a"))
    files, root = fsspec.core.url_to_fs(url)
    files.makedirs(f"{root}/.snapshots", exist_ok=True)
    for path in ("readme", "acme/.DS_Store", ".snapshots/file-9"):
        files.pipe_file(f"{root}/{path}", b"x")
    assert [one[:2] async for one in blobs.listed()] == [("acme", "file-1")]


async def test_sweep_removes_drafts_of_the_dead_and_leaves_those_of_the_living(
    blobs: Blobs, url: str
) -> None:
    await blobs.write("acme", "file-1", pieces(b"a"))
    files, root = fsspec.core.url_to_fs(url)
    files.makedirs(f"{root}/{DRAFTS}", exist_ok=True)
    files.pipe_file(f"{root}/{DRAFTS}/dead", b"x")
    await blobs.sweep_drafts(time.time() - 3600)
    assert everything(url) == [f"{DRAFTS}/dead", "acme/file-1"]
    await blobs.sweep_drafts(time.time() + 3600)
    assert everything(url) == ["acme/file-1"]


async def test_files_and_directories_are_for_nobody_else(tmp_path: Path) -> None:
    root = tmp_path / "files"
    before = os.umask(0)
    try:
        await Blobs(str(root)).write("acme", "file-1", pieces(b"a"))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert modes == {"files": 0o700, "acme": 0o700, DRAFTS: 0o700, "file-1": 0o600}


async def test_local_file_is_the_blob_itself(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    await blobs.write("acme", "file-1", pieces(b"a"))
    async with blobs.local("acme", "file-1") as path:
        assert path == tmp_path / "acme" / "file-1"


async def test_disk_that_refuses_a_blob_keeps_no_draft_of_it(tmp_path: Path) -> None:
    tmp_path.joinpath("acme").write_text("a file is where the tenant's directory should be")
    with pytest.raises(OSError, match="acme"):
        await Blobs(str(tmp_path)).write("acme", "file-1", pieces(b"a"))
    assert everything(str(tmp_path)) == ["acme"]
