"""`RemoteEngine` before a deployment in this process, with a real connection between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from models.delivery.frames import Address
from models.delivery.receiver import Receiver
from models.delivery.sender import Sender
from models.engine import EngineError, Failure, GenerationRequest, TokenizeRequest, Tokens
from models.remote.engine import RemoteEngine
from models.simulated.engine import SimulatedEngine
from tests.models.engine_contract import HANG_S, RemoteEngineContract, Subject
from tests.models.simulated.specs import MOST_OPEN, SLOTS, SPEC


class Deployment:
    """A simulated engine whose errors are values, as those of every deployment."""

    def __init__(self) -> None:
        self._engine = SimulatedEngine(SPEC)
        self.sender = Sender()

    async def generate(self, request: GenerationRequest, address: Address) -> Failure | None:
        items = self._engine.generate(request)
        return await self.sender.deliver(items, address, failure=_failure)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        return await self._engine.tokenize(request)

    async def detokenize(self, token_ids: list[int]) -> str | Failure:
        try:
            return await self._engine.detokenize(token_ids)
        except EngineError as error:
            return Failure.of(error)


def _failure(error: Exception) -> Failure:
    assert isinstance(error, EngineError)
    return Failure.of(error)


class Handle:
    """What `RemoteEngine` asks of a Serve handle; its responses are tasks of this loop."""

    def __init__(self, deployment: Deployment, method: str = "") -> None:
        self._deployment = deployment
        self._method = method

    def options(self, *, method_name: str, **_: str) -> Handle:
        return Handle(self._deployment, method_name)

    def __getattr__(self, method: str) -> Handle:
        return Handle(self._deployment, method)

    def remote(self, *arguments: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(getattr(self._deployment, self._method)(*arguments))


class TestRemoteEngine(RemoteEngineContract):
    @pytest.fixture
    async def subject(self, receiver: Receiver) -> AsyncIterator[Subject]:
        deployment = Deployment()
        yield Subject(
            engine(deployment, receiver, HANG_S),
            model=SPEC.id,
            context_tokens=SPEC.context_tokens or 0,
            slots=SLOTS,
            most_open=MOST_OPEN,
            has_logprobs=False,
            impatient=engine(deployment, receiver, 0),
        )
        deployment.sender.close()


def engine(deployment: Deployment, receiver: Receiver, timeout_s: float) -> RemoteEngine:
    handle: Any = Handle(deployment)
    return RemoteEngine(
        handle, receiver, first_delta_timeout_s=timeout_s, stall_timeout_s=timeout_s
    )
