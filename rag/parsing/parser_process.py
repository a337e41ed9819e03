"""Runs parsers in separate processes, with a deadline and a memory limit for each file.

A process that hangs, crashes or exceeds its memory is replaced, and only its file fails. Knows
neither formats nor indexes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rag
from rag.errors import FileUnreadable
from rag.ingestion.chunking import TextChunk
from rag.parsing import frames
from rag.parsing.document import Document, Section

START_DEADLINE_S = 30.0
"""Deadline for starting a process, which takes 0.5 s on an idle core."""

_END_DEADLINE_S = 5.0

_CLOSED = "The parser was closed."


@dataclass(frozen=True, slots=True)
class ChunkingOptions:
    """How to chunk a document.

    Attributes:
        tokenizer: directory of the embedding model.
        chunk_tokens: maximum tokens of a chunk.
        overlap_tokens: maximum tokens that a chunk repeats of the one before.
    """

    tokenizer: str
    chunk_tokens: int
    overlap_tokens: int


class ParserProcess:
    """A pool of parser processes, which are started on demand.

    Args:
        processes: files parsed at a time; others wait.
        timeout_s: deadline for one file in seconds, not counting the wait.
        memory_bytes: address space of one process.
    """

    def __init__(
        self, *, processes: int = 1, timeout_s: float = 60.0, memory_bytes: int = 2 * 1024**3
    ) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._turns = asyncio.Semaphore(processes)
        self._idle: list[Process] = []
        self._busy: set[Process] = set()
        self._closed = False

    async def parse(self, path: Path, media_type: str, filename: str) -> Document:
        """Parse a file; the arguments are those of `parser.parse`.

        Raises:
            FileUnreadable: the file cannot be parsed; the message is for users.
            OSError: no process could be started, or the pool is closed. The file may be fine.
        """
        answer = await self._answer(path, media_type, filename, None)
        return Document([Section(**section) for section in answer["sections"]])

    async def chunks(
        self, path: Path, media_type: str, filename: str, *, cut: ChunkingOptions
    ) -> list[TextChunk]:
        """Parse and chunk a file in a parser process; chunking takes a second per megabyte.

        Raises:
            FileUnreadable: as for `parse`.
            OSError: as for `parse`.
        """
        answer = await self._answer(path, media_type, filename, cut)
        return [TextChunk(**chunk) for chunk in answer["chunks"]]

    async def close(self) -> None:
        """Stop all processes. Callers that still wait get an `OSError`."""
        self._closed = True
        for process in (*self._idle, *self._busy):
            await _ended(process)
        self._idle.clear()

    async def _answer(
        self, path: Path, media_type: str, filename: str, cut: ChunkingOptions | None
    ) -> dict[str, Any]:
        request = {
            "path": str(path),
            "media_type": media_type,
            "filename": filename,
            "cut": None if cut is None else asdict(cut),
            "timeout_s": self._timeout_s,
        }
        async with self._turns, self._process() as process:
            answer = await self._asked(process, request)
            if answer.get(
                "spent"
            ):  # The process keeps memory once it was allocated, so it is replaced.
                raise FileUnreadable(answer["error"])
        if "error" in answer:
            raise FileUnreadable(answer["error"], code=answer["code"])
        return answer

    @contextlib.asynccontextmanager
    async def _process(self) -> AsyncIterator[Process]:
        """Take a process for one file. An interrupted process is not reused."""
        self._idle = [process for process in self._idle if process.returncode is None]
        process = self._idle.pop() if self._idle else await self._started()
        self._busy.add(process)
        try:
            yield process
        except BaseException:
            await _ended(process)
            raise
        else:
            if self._closed:  # The pool may have been closed while the process was starting.
                await _ended(process)
            else:
                self._idle.append(process)
        finally:
            self._busy.discard(process)

    async def _asked(self, process: Process, request: dict[str, Any]) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("A parser process is started with pipes.")
        try:
            async with asyncio.timeout(self._timeout_s):
                process.stdin.write(frames.encoded(request))
                await process.stdin.drain()
                answer: dict[str, Any] = await frames.received(process.stdout)
        except TimeoutError as error:
            raise FileUnreadable(
                f"The file took longer than {self._timeout_s:g} s to read."
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if self._closed:
                raise ConnectionAbortedError(_CLOSED) from error
            raise FileUnreadable("The file made the parser crash.") from error
        return answer

    async def _started(self) -> Process:
        """Start a process and wait until it is ready. It does not inherit our environment."""
        if self._closed:
            raise ConnectionAbortedError(_CLOSED)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "rag.parsing.worker", str(self._memory_bytes)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,  # Libraries print parts of files to it.
            env={
                "PYTHONPATH": str(Path(rag.__file__).parents[1]),
                "TOKENIZERS_PARALLELISM": "false",
            },
            start_new_session=True,  # Ctrl-C must not reach the parser.
        )
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                await frames.received(process.stdout)  # type: ignore[arg-type]  # PIPE
        except asyncio.IncompleteReadError as error:
            await _ended(process)
            raise ChildProcessError("A parser process does not start.") from error
        except BaseException:
            await _ended(process)
            raise
        return process


async def _ended(process: Process) -> None:
    """Kill a process and wait for its exit."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    async with asyncio.timeout(_END_DEADLINE_S):
        await process.wait()
