"""What blocks for one purpose holds up no other, and has its name in a stack dump."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from models.threads import Threads
from models.tokens.token_counter import LocalCounter
from rag.files.blobs import Blobs
from serving.privacy.policy import PrivacyPolicy
from serving.privacy.scrubbing.scrub import scrub
from serving.ray_cluster.readiness import ServeReadiness
from serving.storage.leftovers import THREADS, Leftovers

HANG_S = 60.0
MANY = 100
"""More than any pool has threads."""


async def test_call_runs_in_a_thread_of_its_purpose() -> None:
    name = await Threads("sums", 1).run(lambda: threading.current_thread().name)
    assert name == "ringfence-sums_0"


async def test_no_more_calls_run_than_there_are_threads() -> None:
    threads, running, most, lock = Threads("sums", 3), 0, 0, threading.Barrier(3)

    def call() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        lock.wait(HANG_S)
        running -= 1

    await asyncio.gather(*(threads.run(call) for _ in range(9)))
    assert most == 3


async def test_error_of_a_call_is_its_callers() -> None:
    with pytest.raises(KeyError, match="x"):
        await Threads("sums", 1).run({"a": 1}.__getitem__, "x")


async def tokens_are_counted(_folder: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?"))
    counter = object.__new__(LocalCounter)
    counter._tokenizer = tokenizer
    assert await counter._tokens(["a" * 10_000], add_special_tokens=False) == 1


async def blobs_are_kept(folder: Path) -> None:
    async def content() -> Any:
        yield b"a"

    blobs = Blobs(str(folder))
    await blobs.write("acme", "file-1", content())
    assert [piece async for piece in blobs.read("acme", "file-1")] == [b"a"]


async def leftovers_are_kept(folder: Path) -> None:
    assert await THREADS.run(Leftovers([folder / "left"], "rows", what="rows").keep, ["row"])


async def requests_are_scrubbed(_folder: Path) -> None:
    class Finder:
        async def detect(self, texts: Any) -> list[list[Any]]:
            return [[] for _ in texts]

    body = {"messages": [{"role": "user", "content": "The quick brown fox jumps over the dog."}]}
    policy = PrivacyPolicy.of({})
    assert await scrub(body, Finder(), policy=policy, key=b"k" * 32, timeout_s=HANG_S)


@pytest.mark.parametrize(
    "work", [tokens_are_counted, blobs_are_kept, leftovers_are_kept, requests_are_scrubbed]
)
async def test_names_and_states_that_hang_hold_up_nothing_else(
    work: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Host names are resolved in the event loop's own pool, and Ray's controller may hang."""
    loop, let_go = asyncio.get_running_loop(), threading.Event()
    hanging = [loop.run_in_executor(None, let_go.wait) for _ in range(MANY)]
    try:
        readiness = ServeReadiness("a", {"m": "d"}, status=let_go.wait, timeout_s=0.01)
        assert not (await readiness())["m"].known
        async with asyncio.timeout(HANG_S):
            await work(tmp_path)
    finally:
        let_go.set()
    await asyncio.gather(*hanging)
