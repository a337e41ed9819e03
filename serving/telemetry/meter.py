"""Prometheus metrics and one log line for every request, written on every outcome, once.

Knows models, outcomes and counts; never text.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from models.background import LoopState
from models.engine import Delta, EngineError, Usage
from serving.domain.errors import RingfenceError, outcome

logger = logging.getLogger("ringfence.requests")

_BRIEF_SECONDS = (0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.05, 0.25, 1)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(slots=True)
class Record:
    """The facts of one request so far. Written to metrics and log when its scope ends."""

    request_id: str
    endpoint: str
    tenant: str
    key_id: str
    model: str
    streamed: bool
    started: float = field(default_factory=time.perf_counter)
    prompt_tokens: int | None = None
    admission_s: float = 0.0
    queued_s: float = 0.0
    settlement_s: float = 0.0
    first_delta_s: float | None = None
    deltas: int = 0
    usage: Usage | None = None
    receipt: str | None = None
    """The receipt given with the answer; the usage ledger keeps it, no metric or log does."""

    @property
    def duration_s(self) -> float:
        """So far."""
        return time.perf_counter() - self.started

    def delta(self, delta: Delta) -> None:
        """Count the events of a delta; the first one sets the time to first token."""
        if self.first_delta_s is None:
            self.first_delta_s = time.perf_counter() - self.started
        self.deltas += delta.count(b"\n\n")  # JSON holds no line feed.


def outcome_label(error: BaseException | None) -> str:
    """Return the word for how a request ended, in metrics, logs and the ledger."""
    if error is None:
        return "ok"
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    if isinstance(error, RingfenceError | EngineError):
        return outcome(error).code or "invalid_request"
    return "error"


class Meter:
    """Counts requests, tokens and times. One per gateway process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._watched: dict[str, Gauge] = {}
        self._requests = Counter(
            "ringfence_requests", "Requests by outcome.", ["endpoint", "model", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._tokens = Counter(
            "ringfence_tokens", "Tokens, as the engine counts them.", ["model", "kind"],
            registry=registry,
        )  # fmt: skip
        self._running = Gauge(
            "ringfence_running_requests", "Requests in progress.", ["model"], registry=registry
        )
        self._first_delta = Histogram(
            "ringfence_time_to_first_token_seconds", "From admission to the first delta.",
            ["model"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._admission = Histogram(
            "ringfence_admission_seconds", "Time to admit and settle a request, without the queue.",
            ["part", "model"], buckets=_BRIEF_SECONDS, registry=registry,
        )  # fmt: skip
        self._duration = Histogram(
            "ringfence_request_duration_seconds", "From admission to the last byte.",
            ["endpoint", "model"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip

    @contextmanager
    def record(self, record: Record) -> Iterator[Record]:
        """Count `record` when the scope ends, whatever the outcome."""
        self._running.labels(record.model).inc()
        told = "ok"
        try:
            yield record
        except BaseException as error:
            told = outcome_label(error)
            raise
        finally:
            self._running.labels(record.model).dec()
            self._settle(record, told)

    def watch(self, name: str, told: str, value: Callable[[], float], **labels: str) -> None:
        """Show a value that is asked for whenever metrics are read."""
        gauge = self._watched.get(name)
        if gauge is None:
            gauge = Gauge(f"ringfence_{name}", told, list(labels), registry=self._registry)
            self._watched[name] = gauge
        (gauge.labels(**labels) if labels else gauge).set_function(value)

    def watch_loops(self, states: Callable[[], Iterable[LoopState]]) -> None:
        """Show how background loops fare. To be called once."""
        self._registry.register(_Loops(states))

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _settle(self, record: Record, told: str) -> None:
        duration_s = record.duration_s
        self._requests.labels(record.endpoint, record.model, told).inc()
        self._duration.labels(record.endpoint, record.model).observe(duration_s)
        self._admission.labels("admission", record.model).observe(record.admission_s)
        self._admission.labels("settlement", record.model).observe(record.settlement_s)
        if record.first_delta_s is not None:
            self._first_delta.labels(record.model).observe(record.first_delta_s)
        # A request that was cut short has no usage record: its deltas are a lower bound.
        usage = record.usage or Usage(prompt_tokens=0, completion_tokens=record.deltas)
        self._tokens.labels(record.model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(record.model, "completion").inc(usage.completion_tokens)
        line = {
            "event": "request",
            "request_id": record.request_id,
            "endpoint": record.endpoint,
            "tenant": record.tenant,
            "key_id": record.key_id,
            "model": record.model,
            "streamed": record.streamed,
            "outcome": told,
            "duration_ms": round(duration_s * 1000, 1),
            "queued_ms": round(record.queued_s * 1000, 1),
            "admission_ms": round((record.admission_s + record.settlement_s) * 1000, 2),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }
        logger.info("%s", orjson.dumps(line).decode())


class _Loops(Collector):
    """Background loops, looked at whenever metrics are read."""

    def __init__(self, states: Callable[[], Iterable[LoopState]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        failures = CounterMetricFamily(
            "ringfence_background_failures", "Steps of background loops that failed.",
            labels=["loop"],
        )  # fmt: skip
        ages = GaugeMetricFamily(
            "ringfence_background_success_age_seconds",
            "Since a step of a running background loop last succeeded.",
            labels=["loop"],
        )
        for state in self._states():
            failures.add_metric([state.name], state.failures)
            if state.success_age_s is not None:
                ages.add_metric([state.name], state.success_age_s)
        yield failures
        yield ages
