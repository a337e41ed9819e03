"""Detection as a Ray Serve deployment: a process of its own, without torch, off the gateway's loop.

Failures are returned as values: Ray logs raised errors with their text, which may hold a prompt's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from models.catalog import HEALTH_CHECK_PERIOD_S, NO_ACCESS_LOG
from models.engine import EngineFailed, Failure, RequestRejected
from serving.privacy.detector.personal_data import PersonalData
from serving.privacy.detector.windows import TextWindow, windows_of
from serving.privacy.patterns.operator_rules import OperatorRules
from serving.privacy.spans import Span

if TYPE_CHECKING:
    from ray.serve import Application

logger = logging.getLogger("ringfence.privacy")

T = TypeVar("T")

Look = Callable[[list[TextWindow]], Awaitable[list[list[Span]]]]

NAME = "Detector"

MAX_CHARACTERS = 1_000_000
"""Longest text of one call; a longer one would hold the thread for half a minute."""

TURN = 4
"""Windows of one call that are read before other calls have their turn."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment that keeps numeric libraries to one thread: the models are too small to gain from
more, and the machine's cores are the engine's."""


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """Options of the detector's deployment.

    Args:
        replicas: processes, each with one thread that detects.
        cpus: that Ray reserves for a replica; scheduling only.
        max_ongoing_requests: of a replica at once; they take turns.
        max_queued_requests: that wait; more are refused, and then nothing leaves.
        max_batch_size: calls whose windows the models look at together.
        batch_wait_timeout_s: how long the first of them waits for others.
    """

    replicas: int = 1
    cpus: float = 0.1
    max_ongoing_requests: int = 16
    max_queued_requests: int = 64
    max_batch_size: int = 8
    batch_wait_timeout_s: float = 0.002


class DetectorServer:
    """`PersonalData` behind a handle, with calls that arrive together looked at together.

    Args:
        rules: the operator's own patterns and words.
        options: how to run it.
    """

    def __init__(self, rules: OperatorRules, options: DetectorOptions) -> None:
        from ray import serve  # noqa: PLC0415  Only where it runs.

        from models.ray_binding import bind_to_node  # noqa: PLC0415

        bind_to_node()
        self._turns = Turns(PersonalData(rules))
        self._look = serve.batch(
            max_batch_size=options.max_batch_size,
            batch_wait_timeout_s=options.batch_wait_timeout_s,
        )(self._turns.look_together)

    async def detect(self, texts: Sequence[str]) -> list[list[Span]] | Failure:
        """`Detector.detect` for a Serve handle."""
        return await self._turns.detect(texts, self._look)


class Turns:
    """Detection in one thread, where calls take turns: a long text does not hold up short ones.

    Args:
        data: what finds personal data; asked in that thread only.
    """

    def __init__(self, data: PersonalData) -> None:
        self._data = data
        self._thread = ThreadPoolExecutor(1, "detect")

    async def detect(self, texts: Sequence[str], look: Look) -> list[list[Span]] | Failure:
        """Spans of each text, or why there are none.

        Args:
            texts: of one call.
            look: finds what is in some windows; `look_together`, of this call or of several.
        """
        if sum(map(len, texts)) > MAX_CHARACTERS:
            return Failure(RequestRejected, f"More than {MAX_CHARACTERS} characters.")
        try:
            windows = await self._in_thread(windows_of, texts)
            found: list[list[Span]] = []
            for turn in range(0, len(windows), TURN):
                found += await look(windows[turn : turn + TURN])
            return await self._in_thread(self._data.joined, texts, windows, found)
        except Exception as error:  # noqa: BLE001  Its text may hold a prompt's; Ray would log it.
            logger.error("detection failed: %s", type(error).__name__)  # noqa: TRY400
            return Failure(EngineFailed, "Detection failed.")

    async def look_together(self, calls: Sequence[list[TextWindow]]) -> list[list[list[Span]]]:
        """Look at the windows of several calls as one, and give each its own."""
        together = [window for windows in calls for window in windows]
        found = iter(await self._in_thread(self._data.look, together))
        return [[next(found) for _ in windows] for windows in calls]

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def build_detector(
    rules: OperatorRules | None = None,
    *,
    drain_s: float,
    options: DetectorOptions | None = None,
) -> Application:
    """The Serve application of detection, named `Detector`.

    Args:
        rules: the operator's own patterns and words.
        drain_s: for calls in progress when a replica is stopped.
        options: how to run it.
    """
    from ray import serve  # noqa: PLC0415  Importing this module stays cheap.

    options = options or DetectorOptions()
    deployment = serve.deployment(DetectorServer).options(
        name=NAME,
        num_replicas=options.replicas,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        graceful_shutdown_timeout_s=drain_s,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        logging_config=dict(NO_ACCESS_LOG),
        ray_actor_options={
            "num_cpus": options.cpus,
            "runtime_env": {"env_vars": ONE_THREAD},
        },
    )
    return deployment.bind(rules or OperatorRules(), options)
