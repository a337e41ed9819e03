"""An engine in another process, reached through a Ray Serve handle.

Turns values back into errors, Ray's failures into ours, and a closed generator into a cancelled
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
"""What a handle raises that the deployment did not: death, absence, a full queue."""

CALL_END_DEADLINE_S = 5.0
"""For a call to end after its answer has; past it the answer ends all the same."""


class RemoteEngine:
    """`Engine` over a Serve handle; what it generates comes in over a delta channel.

    Args:
        handle: of a deployment whose methods return `Failure` values in place of errors.
        receiver: where the deployment's replicas deliver to.
        first_delta_timeout_s: for queueing and prefill.
        stall_timeout_s: between two items after the first.
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
        # The method's own handle, once: an attribute of a handle is a new handle each time.
        self._generate = handle.options(method_name="generate", request_serialization="pickle")
        self._receiver = receiver
        self._first_delta_timeout_s = first_delta_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._calls: set[asyncio.Task[None]] = set()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        """See `Engine.generate`. The call lasts as long as the answer, so Ray counts it.

        It is not a stream of Ray's, of which the loop would get five events in place of one.
        """
        incoming = self._receiver.open(
            first_timeout_s=self._first_delta_timeout_s, stall_timeout_s=self._stall_timeout_s
        )
        response = self._generate.remote(request, incoming.address)
        call = asyncio.create_task(_watch(response, incoming))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        complete = False
        try:
            while not complete:
                item = await incoming.take()
                complete = isinstance(item, Usage)
                yield item
            # grpc.aio takes one event of its calls a turn of the loop: calls whose answers are all
            # there would pile up under load, by the thousand.
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
    """The one answer of a deployment; a call that is given up is cancelled there too.

    Raises:
        EngineError: the failure that came back, no answer in time, or nobody there.
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
    """See the call to its end: what it returns says how the delivery went."""
    try:
        failure = await response
        if failure is not None:
            incoming.end(failure.exception())
        incoming.last_call()
    except TimeoutError:  # Ray's, which is one of UNREACHABLE as well.
        incoming.end(EngineTimeout("The model did not answer in time."))
    except UNREACHABLE as error:
        incoming.end(engine_error(error))
    except Exception as error:  # noqa: BLE001  Its text may hold a prompt.
        logger.error("unexpected %s from a model's replica", type(error).__name__)  # noqa: TRY400
        incoming.end(EngineFailed("The model's engine failed."))
    except asyncio.CancelledError:  # Cancelling the response ends its iteration with this.
        incoming.end(EngineUnavailable("The call was cancelled."))


def engine_error(error: Exception) -> EngineError:
    """Our error for a failure of Ray's: the queue is full, or the replica cannot be reached."""
    if isinstance(error, BackPressureError):
        return EngineOverloaded("Too many requests wait for this model; try again later.")
    return EngineUnavailable("The model is not available now; try again later.")
