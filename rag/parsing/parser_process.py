"""Documents read in processes of their own, each file with a deadline and a bound on memory.

A process that hangs, crashes or takes too much is replaced, and only its file fails. Knows neither
formats nor the index.
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
from rag.ingestion.chunking import Chunk
from rag.parsing import frames
from rag.parsing.document import Document, Section

START_DEADLINE_S = 30.0
"""For a process to be there, which takes 0.5 s on an idle core."""

_END_DEADLINE_S = 5.0

_CLOSED = "The parser was closed."


@dataclass(frozen=True, slots=True)
class Cut:
    """How a document is cut.

    Args:
        tokenizer: directory of the embedding model.
        chunk_tokens: of a chunk, at most.
        overlap_tokens: that a chunk repeats of the one before, at most.
    """

    tokenizer: str
    chunk_tokens: int
    overlap_tokens: int


class ParserProcess:
    """A pool of parser processes, each started when it is first needed.

    Args:
        processes: files that are read at a time; others wait for their turn.
        timeout_s: for one file, from its turn on.
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
        """The text of a file; arguments as of `parser.parse`.

        Raises:
            FileUnreadable: with the reason, for people.
            OSError: no process can be started, or we were closed. The file may be fine.
        """
        answer = await self._answer(path, media_type, filename, None)
        return Document([Section(**section) for section in answer["sections"]])

    async def chunks(self, path: Path, media_type: str, filename: str, *, cut: Cut) -> list[Chunk]:
        """The chunks of a file, which is also cut over there: it takes a second a megabyte.

        Raises:
            FileUnreadable: as `parse`.
            OSError: as `parse`.
        """
        answer = await self._answer(path, media_type, filename, cut)
        return [Chunk(**chunk) for chunk in answer["chunks"]]

    async def close(self) -> None:
        """End all processes. Whoever waits for a file gets an `OSError`: it may be fine."""
        self._closed = True
        for process in (*self._idle, *self._busy):
            await _ended(process)
        self._idle.clear()

    async def _answer(
        self, path: Path, media_type: str, filename: str, cut: Cut | None
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
            if answer.get("spent"):  # Memory that it once took stays taken.
                raise FileUnreadable(answer["error"])
        if "error" in answer:
            raise FileUnreadable(answer["error"], code=answer["code"])
        return answer

    @contextlib.asynccontextmanager
    async def _process(self) -> AsyncIterator[Process]:
        """A process for one file. One that was interrupted is not used again."""
        self._idle = [process for process in self._idle if process.returncode is None]
        process = self._idle.pop() if self._idle else await self._started()
        self._busy.add(process)
        try:
            yield process
        except BaseException:
            await _ended(process)
            raise
        else:
            if self._closed:  # While it was starting.
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
        """A process that is ready; its environment holds nothing of ours."""
        if self._closed:
            raise ConnectionAbortedError(_CLOSED)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "rag.parsing.worker", str(self._memory_bytes)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,  # Libraries print pieces of files there.
            env={
                "PYTHONPATH": str(Path(rag.__file__).parents[1]),
                "TOKENIZERS_PARALLELISM": "false",
            },
            start_new_session=True,  # Ctrl-C is for us.
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
    """End a process and wait for it, so that nothing of it is left."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    async with asyncio.timeout(_END_DEADLINE_S):
        await process.wait()
