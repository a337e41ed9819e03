"""Optional parts of Ringfence that a comparison can enable, as additions to the configuration.

The arm `ringfence` has only what cannot be disabled: authentication, metering, the queue and the
usage ledger. An arm such as `ringfence+embedder` has the named parts as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

RINGFENCE = "ringfence"
PARTS: Mapping[str, Mapping[str, Any]] = {
    "embedder": {"models": ["all-minilm-l6-v2"]},
    # Every kind of limit and budget applies to each request, and none is ever reached.
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
"""Name of the arm with all parts."""


def parts_of(arm: str) -> list[str]:
    """Return the parts in an arm's name.

    Raises:
        KeyError: A part is unknown, or the arm is not Ringfence.
    """
    server, *parts = arm.split("+")
    for part in parts:
        if server != RINGFENCE or part not in PARTS:
            raise KeyError(arm)
    return parts


def write_configuration(path: Path, plain: Mapping[str, Any], parts: Sequence[str]) -> Path:
    """Write `ringfence.yaml` to `path`: `plain`, merged with the additions of `parts`."""
    document = dict(plain)
    for part in parts:
        for key, added in PARTS[part].items():
            if isinstance(added, Mapping):
                document[key] = {**document.get(key, {}), **added}
            else:
                document[key] = [*document.get(key, ()), *added]
    path.write_text(yaml.safe_dump(document), "utf-8")
    return path
