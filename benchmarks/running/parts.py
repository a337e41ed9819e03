"""Parts of Ringfence that a comparison switches on, each as what it adds to the configuration.

An arm `ringfence` has authentication, metering, the queue and the usage ledger only, which cannot
be switched off; in `ringfence+embedder` the named parts are on as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

RINGFENCE = "ringfence"
PARTS: Mapping[str, Mapping[str, Any]] = {
    "embedder": {"models": ["all-minilm-l6-v2"]},
    # Every kind of limit and budget on each request, and none of them ever reached.
    "admission": {
        "admission": {
            "per_key": {
                "requests_per_minute": 10_000_000,
                "tokens_per_minute": 1_000_000_000,
                "concurrent_requests": 100_000,
                "tokens_per_request": 1_000_000,
                "budget_day": 1_000_000,
                "budget_month": 1_000_000,
            },
            "per_tenant": {
                "requests_per_minute": 10_000_000,
                "tokens_per_minute": 1_000_000_000,
                "budget_total": 1_000_000,
            },
            "per_model": {"concurrent_requests": 100_000},
        }
    },
}
EVERY_PART = "+".join([RINGFENCE, *PARTS])
"""Name of the arm with everything on."""


def parts_of(arm: str) -> list[str]:
    """The parts in an arm's name.

    Raises:
        KeyError: If one is not among `PARTS`, or the arm is not Ringfence.
    """
    server, *parts = arm.split("+")
    for part in parts:
        if server != RINGFENCE or part not in PARTS:
            raise KeyError(arm)
    return parts


def write_configuration(path: Path, plain: Mapping[str, Any], parts: Sequence[str]) -> Path:
    """Write `ringfence.yaml` at `path`: `plain`, and to its lists and groups what `parts` add."""
    document = dict(plain)
    for part in parts:
        for key, added in PARTS[part].items():
            if isinstance(added, Mapping):
                document[key] = {**document.get(key, {}), **added}
            else:
                document[key] = [*document.get(key, ()), *added]
    path.write_text(yaml.safe_dump(document), "utf-8")
    return path
