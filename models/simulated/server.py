"""The Serve deployment of a simulated engine, for studies of the whole path."""

from __future__ import annotations

import logging

from ray import serve
from ray.serve import Application

from models.catalog import ModelSpec
from models.delivery.frames import Address
from models.delivery.sender import Sender
from models.engine import (
    EngineError,
    EngineFailed,
    Failure,
    GenerationRequest,
    TokenizeRequest,
    Tokens,
)
from models.ray_binding import between_nodes, bind_to_node
from models.simulated.engine import SimulatedEngine

logger = logging.getLogger(__name__)


class SimulatedServer:
    """Serves one simulated engine. Errors are returned as `Failure` values."""

    def __init__(self, spec: ModelSpec) -> None:
        bind_to_node()
        self._engine = SimulatedEngine(spec)
        self._sender = Sender(tls=between_nodes().client)

    async def generate(self, request: GenerationRequest, address: Address) -> Failure | None:
        """Run `Engine.generate` for a Serve handle: the items go to `address`."""
        items = self._engine.generate(request)
        return await self._sender.deliver(items, address, failure=_failure)

    async def tokenize(self, request: TokenizeRequest) -> Tokens | Failure:
        """Run `Engine.tokenize` for a Serve handle."""
        try:
            return await self._engine.tokenize(request)
        except EngineError as error:
            return Failure.of(error)

    async def detokenize(self, token_ids: list[int]) -> str | Failure:
        """Run `Engine.detokenize` for a Serve handle."""
        try:
            return await self._engine.detokenize(token_ids)
        except EngineError as error:
            return Failure.of(error)


def _failure(error: Exception) -> Failure:
    if isinstance(error, EngineError):
        return Failure.of(error)
    logger.error("unexpected %s in the simulated engine", type(error).__name__)
    return Failure(EngineFailed, "The model's engine failed.")


def build(spec: ModelSpec, *, drain_s: float) -> Application:
    """Build the Serve application of one simulated model."""
    deployment = serve.deployment(SimulatedServer).options(
        name=spec.deployment_name,
        ray_actor_options={"num_cpus": 0},
        **spec.scaling(drain_s=drain_s),
    )
    return deployment.bind(spec)
