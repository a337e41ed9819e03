"""An engine in another process, reached through a Ray Serve handle.

Converts failure values and Ray's errors into our errors, and a closed generator into a cancelled
request. Imports neither vllm nor torch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import TypeVar

import grpc
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from models.delivery.receiver import Incoming, Receiver
from models.engine import (
    Delta,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    Failure,
    GenerationRequest,
    TokenizeRequest,
    Tokens,
    Usage,
)

logger = logging.getLogger("ringfence.engines")

T = TypeVar("T")

UNREACHABLE = (RayError, RayServeException, grpc.RpcError)
"""Errors of a handle itself, such as a dead or missing replica or a full queue."""

CALL_END_DEADLINE_S = 5.0
"""Seconds that a call may take to end after its answer; then the answer ends without it."""


class RemoteEngine:
    """An `Engine` over a Serve handle. Items of an answer arrive by delivery.

    Args:
        handle: handle of a deployment whose methods return `Failure` values instead of raising.
        receiver: destination of deliveries.
        first_delta_timeout_s: seconds for the wait in the queue and the prefill.
        stall_timeout_s: seconds between two further items.
    """

    def __init__(
        self,
        handle: DeploymentHandle,
        receiver: Receiver,
        *,
        first_delta_timeout_s: float,
        stall_timeout_s: float,
    ) -> None:
        self._unary = handle
        # Kept, because each access to a handle's attribute creates a new handle.
        self._generate = handle.options(method_name="generate", request_serialization="pickle")
        self._receiver = receiver
        self._first_delta_timeout_s = first_delta_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._calls: set[asyncio.Task[None]] = set()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        """See `Engine.generate`. The call lasts as long as the answer, so that Ray counts it.

        Ray's own streams are not used: they cost the event loop five events instead of one.
        """
        incoming = self._receiver.open(
            first_timeout_s=self._first_delta_timeout_s, stall_timeout_s=self._stall_timeout_s
        )
        response = self._generate.remote(request, incoming.address)
        incoming.on_overrun = response.cancel
        call = asyncio.create_task(_watch(response, incoming))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        complete = False
        try:
            while not complete:
                item = await incoming.take()
                complete = isinstance(item, Usage)
                yield item
            # grpc.aio handles one event per turn of the loop, so under load, finished calls would
            # pile up by the thousand.
            await asyncio.wait({call}, timeout=CALL_END_DEADLINE_S)
        finally:
            incoming.close()
            if not complete:
                response.cancel()

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """See `Engine.tokenize`."""
        return await answer_of(
            self._unary.tokenize.remote(request), timeout_s=self._stall_timeout_s
        )

    async def detokenize(self, token_ids: list[int]) -> str:
        """See `Engine.detokenize`."""
        return await answer_of(
            self._unary.detokenize.remote(token_ids), timeout_s=self._stall_timeout_s
        )


async def answer_of(response: DeploymentResponse[T | Failure], *, timeout_s: float) -> T:
    """Return the answer of a unary call, and cancel the call if the caller is cancelled.

    Raises:
        EngineError: the failure that was returned, no answer in time, or no replica.
    """
    try:
        async with asyncio.timeout(timeout_s):
            answer: T | Failure = await response
    except TimeoutError:
        response.cancel()
        raise EngineTimeout(f"The model did not answer within {timeout_s:g} s.") from None
    except asyncio.CancelledError:
        response.cancel()
        raise
    except UNREACHABLE as error:
        raise engine_error(error) from None
    if isinstance(answer, Failure):
        raise answer.exception()
    return answer


async def _watch(response: DeploymentResponse[Failure | None], incoming: Incoming) -> None:
    """Wait for the end of the call; its result says whether the delivery succeeded."""
    try:
        failure = await response
        if failure is not None:
            incoming.end(failure.exception())
        incoming.last_call()
    except TimeoutError:  # Ray's time-out is also one of UNREACHABLE.
        incoming.end(EngineTimeout("The model did not answer in time."))
    except UNREACHABLE as error:
        incoming.end(engine_error(error))
    except Exception as error:  # noqa: BLE001  Its text may contain a prompt.
        logger.error("unexpected %s from a model's replica", type(error).__name__)  # noqa: TRY400
        incoming.end(EngineFailed("The model's engine failed."))
    except asyncio.CancelledError:  # Cancelling the response raises this here.
        incoming.end(EngineUnavailable("The call was cancelled."))


def engine_error(error: Exception) -> EngineError:
    """Convert an error of Ray: the queue is full, or the replica cannot be reached."""
    if isinstance(error, BackPressureError):
        return EngineOverloaded("Too many requests wait for this model; try again later.")
    return EngineUnavailable("The model is not available now; try again later.")
