"""A Ray Serve application with the real embedder, called from outside; writes the results.

Usage: embedder_scenario.py RESULT.json

Runs in its own process, because a process can be part of only one Ray cluster.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve

from models.catalog import builtin
from models.embedding.embedder import Embeddings
from models.embedding.embedder_server import EmbedderOptions, build_embedder
from models.engine import EngineError
from models.prepare import prepare
from models.remote.embedder import RemoteEmbedder

WAIT_S = 6.0
SPEC = builtin()["all-minilm-l6-v2"]
OPTIONS = EmbedderOptions(token_budget=64, max_batch_size=8, batch_wait_timeout_s=WAIT_S)


def deploy(name: str, **limits: int) -> Any:
    directory = prepare(SPEC, Path(tempfile.gettempdir()))
    application = build_embedder(
        SPEC.model_copy(update=limits), directory, drain_s=1, options=OPTIONS
    )
    return serve.run(application, name=name, route_prefix=None)


async def outcome(embedder: RemoteEmbedder, inputs: list[str]) -> Embeddings | str:
    try:
        return await embedder.embed(inputs)
    except EngineError as error:
        return f"{type(error).__name__}: {error.message} ({error.param})"


async def timed(embedder: RemoteEmbedder, *requests: list[str]) -> tuple[float, list[Any]]:
    begun = time.perf_counter()
    answers = await asyncio.gather(*[outcome(embedder, request) for request in requests])
    return time.perf_counter() - begun, answers


async def batching(handle: Any) -> dict[str, Any]:
    embedder = RemoteEmbedder(handle, timeout_s=30)
    single_s, [single] = await timed(embedder, ["text 0"])
    full_s, full = await timed(embedder, *[[f"text {i}"] * (i + 1) for i in range(8)])
    mixed = (await timed(embedder, ["fine"], ["word " * 300], ["fine", "fine"]))[1]
    large_s, [large] = await timed(embedder, ["word " * 30] * 6)
    hurried = RemoteEmbedder(handle, timeout_s=WAIT_S / 4)
    return {
        "single_s": single_s,
        "full_s": full_s,
        "large_s": large_s,
        "full_counts": [len(answer.token_counts) for answer in full],
        "full_equals_single": bool(np.allclose(full[0].vectors, single.vectors, atol=1e-5)),
        "large_shape": large.vectors.shape,
        "mixed": [a if isinstance(a, str) else a.vectors.shape for a in mixed],
        "hurried": await outcome(hurried, ["text"]),
    }


async def overload(handle: Any) -> list[str]:
    embedder = RemoteEmbedder(handle, timeout_s=30)
    answers = (await timed(embedder, *[["text"]] * 6))[1]
    return [a if isinstance(a, str) else "answered" for a in answers]


async def death(handle: Any, name: str) -> Any:
    embedder = RemoteEmbedder(handle, timeout_s=30)
    request = asyncio.create_task(outcome(embedder, ["text"]))
    await asyncio.sleep(WAIT_S / 4)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(f"SERVE_REPLICA::{name}#"):
            ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
    return await request


def main() -> None:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    serve.start(proxy_location="Disabled")
    result: dict[str, Any] = {}
    handle = deploy("a", max_ongoing_requests=16)
    result |= asyncio.run(batching(handle))
    result["death"] = asyncio.run(death(handle, "a"))
    serve.delete("a")
    result["overload"] = asyncio.run(
        overload(deploy("b", max_ongoing_requests=1, max_queued_requests=2))
    )
    Path(sys.argv[1]).write_text(json.dumps(result), "utf-8")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
