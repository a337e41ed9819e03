"""An engine without a model for Ray Serve LLM, in place of its vLLM engine.

Ray loads it by name from `RAYLLM_VLLM_ENGINE_CLS`. It sends the mock's prepared frames, one token
each, which is less work than a real engine does and therefore favours Ray.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any

from ray.llm._internal.serve.core.configs.openai_api_models import ChatCompletionResponse

from benchmarks.servers import frames
from benchmarks.servers.steps import Pace, StepClock

PACE_VARIABLE = "RINGFENCE_BENCHMARK_PACE"
_ROLE, _LAST_TOKEN = frames.ROLE.decode(), frames.LAST_TOKEN.decode()
_TOKENS = tuple(token.decode() for token in frames.TOKENS)


class RaySimulatedEngine:
    """The part of Ray's `LLMEngine` that its server calls for a chat."""

    def __init__(self, llm_config: Any) -> None:
        del llm_config
        self._steps = StepClock(Pace(*map(float, os.environ[PACE_VARIABLE].split(","))))

    async def start(self) -> None:
        """Do nothing: there is nothing to load."""

    async def check_health(self) -> None:
        """Do nothing: nothing can fail."""

    def routing_stats(self) -> dict[str, Any]:
        """Return no statistics for routers."""
        return {}

    async def chat(
        self, request: Any, raw_request_info: Any = None
    ) -> AsyncGenerator[str | ChatCompletionResponse, None]:
        """Yield frames as strings, or one `ChatCompletionResponse`, as Ray's ingress expects."""
        del raw_request_info
        tokens = request.max_completion_tokens or request.max_tokens or 1
        if request.stream:
            yield _ROLE
        async for number in self._produced(tokens):
            if request.stream:
                yield _TOKENS[number % len(_TOKENS)] if number < tokens else _LAST_TOKEN
        if request.stream:
            yield frames.usage_frame(tokens).decode()
            yield frames.DONE.decode()
        else:
            yield ChatCompletionResponse.model_validate_json(frames.whole(tokens))

    async def _produced(self, tokens: int) -> AsyncGenerator[int, None]:
        """Yield 1, 2, ... `tokens`, each when its step is over."""
        made, ready = 0, asyncio.Event()

        def step() -> bool:
            nonlocal made
            made += 1
            ready.set()
            return made < tokens

        self._steps.join(step)
        try:
            for number in range(1, tokens + 1):
                while made < number:
                    ready.clear()
                    await ready.wait()
                yield number
        finally:
            self._steps.leave(step)
