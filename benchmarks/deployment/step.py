"""Figures of one load step: rates, latencies, goodput, and the knee of a saturation curve.

Latencies are those of `benchmarks.client.records`. Rates are over the wall time from the first
start to the last end, as in `vllm bench serve`. Failed requests count in `failed` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.client.records import RequestRecord
from benchmarks.reporting.statistics import Summary, summarise

KNEE_SHARE = 0.95
KNEE_RULE = (
    "The knee is the smallest number of streams whose request throughput is within 5 % of the "
    "best of the closed loop."
)
_LIMIT = re.compile(r"(ttft|tpot|e2el?):(\d+(?:\.\d+)?)(ms|s|)")


@dataclass(frozen=True, slots=True)
class Limits:
    """Latency limits for goodput, inclusive; None means no limit.

    Goodput is the rate of requests within all limits (DistServe, Zhong et al., OSDI 2024). As in
    `vllm bench serve`, a request with one token has no TPOT and cannot miss its limit.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.ttft_s, self.tpot_s, self.e2e_s))

    def kept_by(self, record: RequestRecord) -> bool:
        """Whether a served request is within every limit."""
        pairs = (
            (self.ttft_s, record.ttft_s),
            (self.tpot_s, record.tpot_s),
            (self.e2e_s, record.e2e_s),
        )
        return all(limit is None or (value or 0.0) <= limit for limit, value in pairs)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Limits:
        """Parse limits such as `ttft:500ms` or `tpot:50`; the default unit is ms.

        Raises:
            ValueError: A limit is malformed or given twice.
        """
        limits: dict[str, float] = {}
        for text in texts:
            match = _LIMIT.fullmatch(text)
            if match is None:
                raise ValueError(f"{text!r} is not like ttft:500ms, tpot:50ms or e2e:5s")
            name = match[1].removesuffix("l") + "_s"
            if name in limits:
                raise ValueError(f"{match[1]} is given twice")
            limits[name] = float(match[2]) / (1 if match[3] == "s" else 1_000)
        return cls(**limits)

    def shown(self) -> str:
        """Format the limits in the form that `parse` accepts; empty without limits."""
        pairs = {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2e": self.e2e_s}
        return ",".join(f"{n}:{s * 1_000:g}ms" for n, s in pairs.items() if s is not None)


@dataclass(frozen=True, slots=True)
class LoadStep:
    """The figures of one step.

    Attributes:
        streams: Concurrent streams of a closed loop; None for an open loop.
        rate_per_s: Mean arrivals of an open loop; None for a closed loop.
        requests: Number of requests sent.
        first_failure: Error of the first failed request; None if none failed.
        other_length: Served requests whose answer does not have the requested length.
        goodput_per_s: Goodput; None without limits.
        client_cpu_share: Share of one core that the load client used. Near 1, it measures itself.
    """

    streams: int | None
    rate_per_s: float | None
    requests: int
    failed: int
    first_failure: str | None
    other_length: int
    wall_s: float
    requests_per_s: float
    output_tokens_per_s: float
    goodput_per_s: float | None
    ttft_s: Summary | None
    tpot_s: Summary | None
    itl_s: Summary | None
    e2e_s: Summary | None
    client_cpu_share: float

    @property
    def served(self) -> int:
        """Number of completely answered requests."""
        return self.requests - self.failed

    @property
    def load(self) -> str:
        """The load in words."""
        if self.streams is None:
            return f"{self.rate_per_s:.3g} requests/s"
        return f"{self.streams} stream{'' if self.streams == 1 else 's'}"


def figures(
    records: Sequence[RequestRecord],
    *,
    max_tokens: int,
    limits: Limits,
    client_cpu_s: float,
    streams: int | None = None,
    rate_per_s: float | None = None,
) -> LoadStep:
    """Compute the figures of a step from its records, at least one.

    Exactly one of `streams` and `rate_per_s` must be given.
    """
    served = [record for record in records if record.error is None]
    failures = [record.error for record in records if record.error is not None]
    wall_s = max(r.end_s for r in records) - min(r.start_s for r in records)
    good = sum(limits.kept_by(record) for record in served)
    return LoadStep(
        streams=streams,
        rate_per_s=rate_per_s,
        requests=len(records),
        failed=len(failures),
        first_failure=failures[0] if failures else None,
        other_length=sum(record.completion_tokens != max_tokens for record in served),
        wall_s=wall_s,
        requests_per_s=len(served) / wall_s,
        output_tokens_per_s=sum(record.completion_tokens for record in served) / wall_s,
        goodput_per_s=good / wall_s if limits else None,
        client_cpu_share=client_cpu_s / wall_s,
        **_latencies(served),
    )


def _latencies(served: Sequence[RequestRecord]) -> Mapping[str, Summary | None]:
    times: dict[str, list[float]] = {
        "ttft_s": [r.ttft_s for r in served if r.ttft_s is not None],
        "tpot_s": [r.tpot_s for r in served if r.tpot_s is not None],
        "itl_s": [gap for r in served for gap in r.itl_s],
        "e2e_s": [r.e2e_s for r in served],
    }
    return {name: summarise(values) if values else None for name, values in times.items()}


def knee(closed: Sequence[LoadStep]) -> LoadStep:
    """Return the step with the fewest streams that reaches 95 % of the best request throughput.

    Raises:
        ValueError: There is no step.
    """
    best = max(step.requests_per_s for step in closed)
    near = [step for step in closed if step.requests_per_s >= KNEE_SHARE * best]
    return min(near, key=lambda step: step.streams or 0)
