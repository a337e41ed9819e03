"""The parser process: reads one request per frame from its input, and writes the answers.

It has limited memory, no network and no child processes. It exits when its input ends, or by an
alarm if a file takes too long, even if its owner is gone.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from rag.errors import FileUnreadable
from rag.ingestion import chunking
from rag.parsing import frames
from rag.parsing.parser import parse

GRACE_S = 5.0
"""Seconds after a file's deadline until the alarm. Before that, the owner stops the process."""

TOO_MUCH_MEMORY = "The file needed too much memory to be read."

_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
)


def main() -> None:
    """Answer requests until the input ends. The only argument is the address space in bytes."""
    # Output of libraries must not get between the frames.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    memory_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # A core dump would contain the document.
    sys.addaudithook(_forbid)
    with contextlib.suppress(BrokenPipeError):
        _answer(sys.stdin.buffer, answers)


def _answer(requests: IO[bytes], answers: IO[bytes]) -> None:
    _send(answers, {"ready": True})
    while (request := frames.read(requests)) is not None:
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + GRACE_S)
        _send(answers, _answered(request))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answered(request: dict[str, Any]) -> dict[str, Any]:
    try:
        document = parse(
            Path(request["path"]),
            media_type=request["media_type"],
            filename=request["filename"],
        )
        cut = request["cut"]
        if cut is None:
            return {"sections": document.sections}
        tokenizer = _tokenizer(cut["tokenizer"])
        return {
            "chunks": chunking.chunks(
                document,
                tokenizer,
                chunk_tokens=cut["chunk_tokens"],
                overlap_tokens=cut["overlap_tokens"],
            )
        }
    except FileUnreadable as error:
        return {"error": error.message, "code": error.code}
    except MemoryError:
        return {"error": TOO_MUCH_MEMORY, "spent": True}


@lru_cache(maxsize=4)
def _tokenizer(directory: str) -> Any:
    return chunking.embedder_tokenizer(Path(directory))


def _send(answers: IO[bytes], value: Any) -> None:
    answers.write(frames.encoded(value))
    answers.flush()


def _forbid(event: str, _arguments: object) -> None:
    if event.startswith(_FORBIDDEN):
        raise PermissionError("A parser may use neither the network nor processes.")


if __name__ == "__main__":
    main()
