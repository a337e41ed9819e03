"""An engine in another process, reached through a Ray Serve handle.

Turns values back into errors, Ray's failures into ours, and a closed generator into a cancelled
request. Imports neither vllm nor torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

import grpc
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from models.engine import (
    Delta,
    EngineError,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    Failure,
    GenerationRequest,
    TokenizeRequest,
    Tokens,
    Usage,
)

T = TypeVar("T")

UNREACHABLE = (RayError, RayServeException, grpc.RpcError)
"""What a handle raises that the deployment did not: death, absence, a full queue."""


class RemoteEngine:
    """`Engine` over a Serve handle.

    Args:
        handle: of a deployment whose methods return `Failure` values in place of errors.
        first_delta_timeout_s: for queueing and prefill.
        stall_timeout_s: between two items after the first.
    """

    def __init__(
        self, handle: DeploymentHandle, *, first_delta_timeout_s: float, stall_timeout_s: float
    ) -> None:
        self._unary = handle
        self._stream = handle.options(stream=True)
        self._first_delta_timeout_s = first_delta_timeout_s
        self._stall_timeout_s = stall_timeout_s

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        """See `Engine.generate`."""
        response = self._stream.generate.remote(request)
        limit_s = self._first_delta_timeout_s
        try:
            while True:
                async with asyncio.timeout(limit_s):
                    item = await anext(response)
                if isinstance(item, Failure):
                    raise item.exception()
                yield item
                limit_s = self._stall_timeout_s
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise EngineTimeout(f"The model sent nothing for {limit_s:g} s.") from None
        except UNREACHABLE as error:
            raise engine_error(error) from None
        finally:
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


def engine_error(error: Exception) -> EngineError:
    """Our error for a failure of Ray's: the queue is full, or the replica cannot be reached."""
    if isinstance(error, BackPressureError):
        return EngineOverloaded("Too many requests wait for this model; try again later.")
    return EngineUnavailable("The model is not available now; try again later.")
