"""Hand-written fakes of the engine and embedder protocols, and the frames they send."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import orjson

from models.embedding.embedder import Embedder, Embeddings, Inputs
from models.engine import Delta, Engine, GenerationRequest, TokenizeRequest, Tokens, Usage

DIMENSION = 8
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
TEXT_HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "scripted"}

Step = Delta | Usage | Exception | asyncio.Event | float


def event(value: dict[str, Any]) -> Delta:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def chat_frame(
    delta: dict[str, Any], *, index: int = 0, finish: str | None = None, logprobs: Any = None
) -> Delta:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return event(HEAD | {"choices": [choice]})


def text_frame(
    text: str, *, index: int = 0, finish: str | None = None, logprobs: Any = None
) -> Delta:
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
    return event(TEXT_HEAD | {"choices": [choice]})


def usage_frame(prompt: int = 3, completion: int = 2) -> Delta:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    return event(HEAD | {"choices": [], "usage": usage})


ROLE = chat_frame({"role": "assistant", "content": ""})
HELLO = chat_frame({"content": "Hello"})
STOP = chat_frame({}, finish="stop")
USAGE = Usage(prompt_tokens=3, completion_tokens=2)
WHOLE: tuple[Step, ...] = (ROLE, HELLO, STOP, usage_frame(), USAGE)


class ScriptedEngine(Engine):
    """Yields given items, raises errors among them, and waits for events and seconds."""

    def __init__(self, *script: Step) -> None:
        self.script = script
        self.requests: list[GenerationRequest] = []
        self.tokenized: list[TokenizeRequest] = []
        self.open = 0
        self.started = asyncio.Event()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        self.requests.append(request)
        self.open += 1
        self.started.set()
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.open -= 1

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        self.tokenized.append(request)
        self._fail()
        return Tokens([1, 2, 3], 64, ["a", "b", "c"] if request.return_token_strs else None)

    async def detokenize(self, token_ids: list[int]) -> str:
        self._fail()
        return " ".join(map(str, token_ids))

    def _fail(self) -> None:
        for step in self.script:
            if isinstance(step, Exception):
                raise step


class FakeEmbedder(Embedder):
    """Returns unit vectors that depend only on the input; fails or waits on demand."""

    def __init__(self, *script: Exception | asyncio.Event) -> None:
        self.script = script
        self.inputs: list[Inputs] = []
        self.open = 0
        self.started = asyncio.Event()

    async def embed(self, inputs: Inputs) -> Embeddings:
        self.inputs.append(inputs)
        self.open += 1
        self.started.set()
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                await step.wait()
        finally:
            self.open -= 1
        return Embeddings(
            np.stack([vector_of(one) for one in inputs]), [len(one) for one in inputs]
        )


def vector_of(one: Any) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    digest = hashlib.sha256(repr(one).encode()).digest()[:DIMENSION]
    raw = np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5
    unit: np.ndarray[tuple[int], np.dtype[np.float32]] = raw / np.linalg.norm(raw)
    return unit
