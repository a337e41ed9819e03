"""The parameters of a run of `ringfence bench`."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.client.prompts import LONGEST_WORDS, SHORTEST_WORDS
from benchmarks.deployment.step import Limits

KNEE_SHARES = (0.5, 0.7, 0.9, 1.1)


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """The load of a run.

    Attributes:
        streams: Stream counts of the closed-loop steps.
        rates_per_s: Arrival rates of the open-loop steps; None for `KNEE_SHARES` of the knee.
        max_tokens: Length of each answer, which `ignore_eos` makes exact.
        prompt_words: Length of the shortest and the longest prompt in English words.
        limits: Latency limits for goodput.
        duration_s: Seconds for which a step sends requests.
        warm_up: Requests before the first step, which are not counted; at least one is sent.
        timeout_s: Deadline of one request in seconds.
        seed: Seed of prompts and arrival times.
        first_number: Number of the first prompt; the following count on. Every run needs another
            one,
            or the server finds its prompts in the prefix cache.
    """

    streams: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    rates_per_s: tuple[float, ...] | None = None
    max_tokens: int = 64
    prompt_words: tuple[int, int] = (SHORTEST_WORDS, LONGEST_WORDS)
    limits: Limits = field(default_factory=Limits)
    duration_s: float = 20.0
    warm_up: int = 8
    timeout_s: float = 120.0
    seed: int = 0
    first_number: int = 0
