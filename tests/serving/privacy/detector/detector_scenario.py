"""A Ray Serve application with the real detector, called from outside; writes the results.

Usage: detector_scenario.py RESULT.json

A process of its own, because one process can be part of one Ray cluster only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve

from serving.privacy.detector.remote import RemoteDetector
from serving.privacy.detector.server import DetectorOptions, build_detector
from serving.privacy.patterns.operator_rules import OperatorRules
from serving.privacy.spans import DetectorUnavailable

TEXT = "My friend is Zbigniew Kowalczyk, jane@example.org, number EMP-12345."
LONG = "My friend is Zbigniew Kowalczyk. It was late. " * 4_000


def deploy(name: str, **limits: int) -> Any:
    rules = OperatorRules.of({"staff": r"EMP-\d{5}"})
    options = DetectorOptions(**limits)
    application = build_detector(rules, drain_s=1, options=options)
    return serve.run(application, name=name, route_prefix=None)


async def outcome(handle: Any, text: str, *, timeout_s: float) -> str:
    try:
        await RemoteDetector(handle, timeout_s=timeout_s).detect([text])
    except DetectorUnavailable as error:
        return str(error)
    return "answered"


async def found(handle: Any) -> list[list[str]]:
    texts = [TEXT, "nothing here"]
    spans = await RemoteDetector(handle, timeout_s=60).detect(texts)
    return [[t[s.start : s.end] for s in of_text] for t, of_text in zip(texts, spans, strict=True)]


async def crowd(handle: Any) -> list[str]:
    return await asyncio.gather(*[outcome(handle, TEXT * 100, timeout_s=60) for _ in range(8)])


def mapped() -> set[str]:
    """Return the libraries that the detector's process has mapped."""
    for process in psutil.process_iter():
        try:
            if "ServeReplica:a:Detector" in "".join(process.cmdline()):
                return {
                    name
                    for m in process.memory_maps()
                    for name in ("libtorch", "spacy")
                    if name in m.path
                }
        except psutil.Error:
            continue
    return set()


async def death(handle: Any, name: str) -> str:
    call = asyncio.create_task(outcome(handle, LONG, timeout_s=60))
    await asyncio.sleep(0.5)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(f"SERVE_REPLICA::{name}#"):
            ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
    return await call


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
    handle = deploy("a", max_ongoing_requests=1, max_queued_requests=2)
    result["found"] = asyncio.run(found(handle))
    libraries = mapped()
    result["torch_mapped"] = "libtorch" in libraries
    result["spacy_mapped"] = "spacy" in libraries
    result["hurried"] = asyncio.run(outcome(handle, LONG, timeout_s=0.01))
    result["crowd"] = asyncio.run(crowd(handle))
    result["death"] = asyncio.run(death(handle, "a"))
    Path(sys.argv[1]).write_text(json.dumps(result), "utf-8")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
