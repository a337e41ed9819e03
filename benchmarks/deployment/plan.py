"""What `ringfence bench` sends: how much, how long, for how long, and what counts as good."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.client.prompts import LONGEST_WORDS, SHORTEST_WORDS
from benchmarks.deployment.step import Limits

KNEE_SHARES = (0.5, 0.7, 0.9, 1.1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent.

    Attributes:
        streams: Steps of the closed loop.
        rates_per_s: Steps of the open loop; None for `KNEE_SHARES` of the knee's throughput.
        max_tokens: Of each answer. `ignore_eos` is sent, so that each has just as many.
        prompt_words: Shortest and longest prompt, in English words.
        limits: Of goodput.
        duration_s: For how long a step sends.
        warm_up: Requests before the first step, in no figure; one is sent in any case.
        timeout_s: Of one request.
        seed: Of prompts and arrival times.
        first_number: Opens the first prompt; the following count on. Take another for each run,
            or the server finds the prompts of the run before in its prefix cache.
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
