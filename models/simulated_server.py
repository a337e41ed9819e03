"""The simulated engine as a Ray Serve deployment, where a study wants the whole path."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ray import serve
from ray.serve import Application

from models.catalog import ModelSpec
from models.engine import (
    Delta,
    EngineError,
    Failure,
    GenerationRequest,
    TokenizeRequest,
    Tokens,
    Usage,
)
from models.ray_binding import bind_to_node
from models.simulated_engine import SimulatedEngine


class SimulatedServer:
    """One simulated engine. Errors are returned as `Failure` values, as by every deployment."""

    def __init__(self, spec: ModelSpec) -> None:
        bind_to_node()
        self._engine = SimulatedEngine(spec)

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[Delta | Usage | Failure, None]:
        """`Engine.generate` for a Serve handle."""
        try:
            async with aclosing(self._engine.generate(request)) as items:
                async for item in items:
                    yield item
        except EngineError as error:
            yield Failure.of(error)

    async def tokenize(self, request: TokenizeRequest) -> Tokens | Failure:
        """`Engine.tokenize` for a Serve handle."""
        try:
            return await self._engine.tokenize(request)
        except EngineError as error:
            return Failure.of(error)

    async def detokenize(self, token_ids: list[int]) -> str | Failure:
        """`Engine.detokenize` for a Serve handle."""
        try:
            return await self._engine.detokenize(token_ids)
        except EngineError as error:
            return Failure.of(error)


def build(spec: ModelSpec, *, drain_s: float) -> Application:
    """The deployment of one simulated model."""
    deployment = serve.deployment(SimulatedServer).options(
        name=spec.deployment_name,
        ray_actor_options={"num_cpus": 0},
        **spec.scaling(drain_s=drain_s),
    )
    return deployment.bind(spec)
