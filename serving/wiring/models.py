"""Models of a gateway, wired: handles of their processes, and token counters."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ray.serve.handle import DeploymentHandle

from models import prepare
from models.catalog import ModelSpec
from models.delivery.receiver import Receiver
from models.ray_binding import between_nodes, node_address
from models.remote.embedder import RemoteEmbedder
from models.remote.engine import RemoteEngine
from models.tokens.token_counter import TokenCounter, counter
from serving.config import ServerSettings, Settings


@dataclass(frozen=True, slots=True)
class ModelParts:
    """Engines, embedders and counters by model id. `receiver` takes the deltas of all engines."""

    receiver: Receiver
    engines: dict[str, RemoteEngine]
    embedders: dict[str, RemoteEmbedder]
    counters: dict[str, TokenCounter]

    @classmethod
    async def open(cls, settings: Settings, handles: Mapping[str, DeploymentHandle]) -> Self:
        """Listen for deltas, and reach the models' deployments by their handles."""
        receiver = Receiver()
        await receiver.listen(node_address(), tls=between_nodes().server)
        server, specs = settings.server, settings.models
        engines = {
            one.id: _engine(handles[one.id], receiver, server)
            for one in specs
            if one.task == "generate"
        }
        embedders = {
            one.id: RemoteEmbedder(handles[one.id], timeout_s=server.first_delta_timeout_s)
            for one in specs
            if one.task == "embed"
        }
        counters = {one.id: await _counter(one, settings, engines.get(one.id)) for one in specs}
        return cls(receiver, engines, embedders, counters)


def _engine(handle: DeploymentHandle, receiver: Receiver, server: ServerSettings) -> RemoteEngine:
    return RemoteEngine(
        handle,
        receiver,
        first_delta_timeout_s=server.first_delta_timeout_s,
        stall_timeout_s=server.stall_timeout_s,
    )


async def _counter(
    spec: ModelSpec, settings: Settings, engine: RemoteEngine | None
) -> TokenCounter:
    """Counts with the files of a model that are on this node, else asks its engine."""
    directory = None
    if not spec.simulated and prepare.status(spec, settings.home) == "ready":
        directory = await asyncio.to_thread(prepare.prepare, spec, settings.home)
    return await asyncio.to_thread(counter, spec, directory, engine)
