"""The contract of engines, held against vLLM: run by `test_engine_contract`, not collected.

Its process joins the Ray cluster of the session's backend and calls the engine's deployment as a
gateway does. Ray reads its settings when it is imported, and they are those of that cluster.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from models.delivery.receiver import Receiver
from models.remote.engine import RemoteEngine
from tests.end_to_end.backend import CONTEXT_TOKENS, MODEL, QUEUED, SLOTS
from tests.models.engine_contract import HANG_S, RemoteEngineContract, Subject

APPLICATION = "ringfence"


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own.
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def handle(cluster: None) -> Any:  # noqa: ARG001  Joined before.
    """As a gateway has it: its router runs in the loop of those who use it."""
    from ray import serve

    return serve.get_deployment_handle(f"Engine:{MODEL}", APPLICATION)


@pytest.mark.asyncio(loop_scope="session")
class TestVLLMEngine(RemoteEngineContract):
    @pytest_asyncio.fixture(loop_scope="session")
    async def subject(self, handle: Any) -> AsyncIterator[Subject]:
        receiver = Receiver()
        await receiver.listen("127.0.0.1")
        yield Subject(
            engine(handle, receiver, HANG_S),
            model=MODEL,
            context_tokens=CONTEXT_TOKENS,
            slots=SLOTS,
            most_open=SLOTS + QUEUED,
            has_logprobs=True,
            impatient=engine(handle, receiver, 0),
        )
        receiver.close()


def engine(handle: Any, receiver: Receiver, timeout_s: float) -> RemoteEngine:
    return RemoteEngine(
        handle, receiver, first_delta_timeout_s=timeout_s, stall_timeout_s=timeout_s
    )
