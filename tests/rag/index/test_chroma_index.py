"""The vector index: one suite for Chroma in this process and for its server."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.errors import IndexUnavailable
from rag.index.chroma_index import APART, THREADS, ChromaIndex
from rag.index.protocols import Collection, FileFilter, VectorKey
from tests.rag.chroma_server import running

DIMENSION = 16
ROOT = Path(__file__).parents[3]


def unit(count: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture(params=["embedded", "server"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ChromaIndex]:
    if request.param == "embedded":
        opened = ChromaIndex.embedded(tmp_path / "chroma")
    else:
        opened = ChromaIndex.server(request.getfixturevalue("chroma_url"))
    yield opened
    opened.close()


@pytest.fixture
async def place(index: ChromaIndex) -> Collection:
    collection = Collection(f"t-{secrets.token_hex(4)}", "vs_1-gen_1")
    await index.create(collection)
    return collection


async def put(
    index: ChromaIndex, place: Collection, version: str, vectors: NDArray[np.float32]
) -> None:
    keys = [VectorKey(f"file-{version}", version, at, 0) for at in range(len(vectors))]
    await index.write(place, keys, vectors)


async def all_ids(index: ChromaIndex, place: Collection) -> list[str]:
    return sorted([one async for page in index.ids(place) for one in page])


async def test_nearest_chunks_come_first_with_their_cosine(
    index: ChromaIndex, place: Collection
) -> None:
    vectors = unit(200)
    await put(index, place, "v1", vectors)
    hits = await index.search(place, vectors[7], limit=5)
    exact = np.sort(vectors @ vectors[7])[::-1][:5]
    assert hits[0].key == "v1:7"
    assert np.allclose([hit.cosine for hit in hits], exact, atol=APART)


async def test_chunk_with_many_windows_is_found_once_and_crowds_nobody_out(
    index: ChromaIndex, place: Collection
) -> None:
    (asked, other) = unit(2)
    keys = [VectorKey("f1", "v1", 0, window) for window in range(60)]
    near = asked + 1e-3 * unit(60, seed=1)
    await index.write(place, keys, near)
    await put(index, place, "v2", other[None])
    hits = await index.search(place, asked, limit=2)
    assert [hit.key for hit in hits] == ["v1:0", "v2:0"]


async def test_vectors_behind_many_that_are_alike_are_found(
    index: ChromaIndex, place: Collection
) -> None:
    few, rare = unit(9), unit(40, seed=5)
    for version in range(12):
        await put(index, place, f"v{version}", few[np.arange(180) % 9])
        await index.erase(place, f"v{version - 2}")
    await put(index, place, "rare", rare)
    found = [await index.search(place, vector, limit=50) for vector in rare]
    assert [hits[0].key for hits in found] == [f"rare:{at}" for at in range(40)]


async def test_files_are_filtered_before_they_are_ranked(
    index: ChromaIndex, place: Collection
) -> None:
    near, far = unit(1), unit(3, seed=2)
    await put(index, place, "v1", near)
    await put(index, place, "v2", far)

    async def keys(files: FileFilter | None) -> set[str]:
        return {hit.key[:2] for hit in await index.search(place, near[0], limit=1, files=files)}

    assert await keys(None) == {"v1"}
    assert await keys(FileFilter(["file-v2"])) == {"v2"}
    assert await keys(FileFilter(["file-v1"], but=True)) == {"v2"}
    assert await keys(FileFilter([])) == set()
    assert await keys(FileFilter([], but=True)) == {"v1"}
    assert await keys(FileFilter([f"file-{i}" for i in range(3000)])) == set()


async def test_erased_version_is_gone_and_others_stay(
    index: ChromaIndex, place: Collection
) -> None:
    await put(index, place, "v1", unit(3))
    await put(index, place, "v2", unit(2))
    await index.erase(place, "v1")
    await index.erase(place, "v1")
    assert await all_ids(index, place) == ["v2:0:0", "v2:1:0"]


async def test_vectors_of_the_same_id_are_replaced(index: ChromaIndex, place: Collection) -> None:
    first, second = unit(1, seed=1), unit(1, seed=2)
    await put(index, place, "v1", first)
    await put(index, place, "v1", second)
    (hit,) = await index.search(place, second[0], limit=5)
    assert hit.cosine == pytest.approx(1.0, abs=1e-5)


async def test_thousands_of_vectors_are_written_and_listed(
    index: ChromaIndex, place: Collection
) -> None:
    await put(index, place, "v1", unit(2500))
    assert len(await all_ids(index, place)) == 2500
    sample = await index.sample(place, 50)
    assert sample.shape == (50, DIMENSION)
    assert np.array_equal(sample, await index.sample(place, 50))
    assert (await index.sample(place, 9000)).shape == (2500, DIMENSION)


async def test_empty_collection_finds_nothing(index: ChromaIndex, place: Collection) -> None:
    assert await index.search(place, unit(1)[0], limit=5) == []
    assert await all_ids(index, place) == []
    assert len(await index.sample(place, 5)) == 0


async def test_collections_are_made_and_dropped_any_number_of_times(
    index: ChromaIndex, place: Collection
) -> None:
    await index.create(place)
    assert place in await index.collections()
    await index.drop(place)
    await index.drop(place)
    await index.erase(place, "v1")
    assert place not in await index.collections()
    with pytest.raises(IndexUnavailable):
        await index.search(place, unit(1)[0], limit=1)


@pytest.mark.parametrize("tenant", ["a", "A", "9", "a.b_c-d", "x" * 64])
async def test_each_tenant_has_a_database_of_its_own(index: ChromaIndex, tenant: str) -> None:
    mine, other = Collection(tenant, "vs_9-gen_9"), Collection("other-tenant", "vs_9-gen_9")
    for collection in (mine, other):
        await index.create(collection)
    await put(index, mine, "v1", unit(1))
    assert await index.search(other, unit(1)[0], limit=1) == []
    assert mine in await index.collections()
    await index.forget(tenant)
    await index.forget(tenant)
    assert mine not in await index.collections()
    assert other in await index.collections()


async def test_server_that_is_silent_is_told_in_time_and_holds_no_thread() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        index = ChromaIndex.server(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        calls = [index.create(Collection("acme", f"vs_{at}-gen_1")) for at in range(2 * THREADS)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(one) for one in ended} == {IndexUnavailable}
        await asyncio.wait_for(asyncio.to_thread(index.close), 60)


async def test_server_that_goes_away_is_told(tmp_path: Path) -> None:
    with running(tmp_path) as url:
        index, place = ChromaIndex.server(url), Collection("acme", "vs_1-gen_1")
        await index.create(place)
        await put(index, place, "v1", unit(3))
        assert len(await index.search(place, unit(3)[0], limit=1)) == 1
    for call in (index.search(place, unit(1)[0], limit=1), index.erase(place, "v1")):
        with pytest.raises(IndexUnavailable):
            await call
    index.close()


async def test_acknowledged_vectors_outlive_a_writer_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio, numpy as np
from pathlib import Path
from rag.index.chroma_index import APART, THREADS, ChromaIndex
from rag.index.protocols import Collection, VectorKey

async def run():
    index, place = ChromaIndex.embedded(Path({str(tmp_path)!r})), Collection("acme", "vs_1-gen_1")
    await index.create(place)
    for batch in range(100_000):
        keys = [VectorKey("f", f"v{{batch}}", i, 0) for i in range(50)]
        vectors = np.random.default_rng(batch).normal(size=(50, 16)).astype(np.float32)
        await index.write(place, keys, vectors)
        print(batch, flush=True)

asyncio.run(run())
"""
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    async with asyncio.timeout(60):
        while int(await writer.stdout.readline()) < 60:
            pass
        writer.kill()
        told = (await writer.stdout.read()).split()
        await writer.wait()
    acknowledged = max([60, *map(int, told)])
    index = ChromaIndex.embedded(tmp_path)
    found = set(await all_ids(index, Collection("acme", "vs_1-gen_1")))
    assert {f"v{batch}:{i}:0" for batch in range(acknowledged + 1) for i in range(50)} <= found
    index.close()


def test_no_text_is_ever_embedded_by_chroma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""
import asyncio, sys, numpy as np
from pathlib import Path
from rag.index.chroma_index import APART, THREADS, ChromaIndex
from rag.index.protocols import Collection, VectorKey

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"{{event}}: {{arguments}}")
sys.addaudithook(refuse)

async def run():
    index, place = ChromaIndex.embedded(Path({str(tmp_path)!r})), Collection("acme", "vs_1-gen_1")
    await index.create(place)
    vectors = np.eye(4, dtype=np.float32)
    await index.write(place, [VectorKey("f", "v", 0, 0)], vectors[:1])
    assert len(await index.search(place, vectors[0], limit=1)) == 1

asyncio.run(run())
assert "onnxruntime" not in sys.modules
"""
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
