"""The gateways of one run: started, pinned to a core, warmed up, and frozen until measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from time import sleep

import psutil
import uvloop

from benchmarks.client.load_client import Target, closed_loop, encode_chat
from benchmarks.client.prompts import prompts
from benchmarks.client.records import RequestRecord, StreamReader, WholeReader
from benchmarks.gateways.arms import UPSTREAM, Setting, built
from benchmarks.running.arms import API_KEY, HOST
from benchmarks.running.measure import MeasurementError
from benchmarks.running.pinning import Cores, pin
from benchmarks.running.processes import READY_DEADLINE_S, Server, running
from benchmarks.running.spending import Watched, watched

WARM_UP_REQUESTS = 100
# Ray waits by the clock for HAProxy's reload; frozen meanwhile, it would give HAProxy up.
SETTLE_S = 3.0
_WARM_UP_STREAMS = 4
_POOL = 64


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the comparison. Two contenders with one server form an A/A pair.

    Attributes:
        label: Name in the results.
        server: The server that the client connects to.
        upstream: The mock behind it, if any.
        cores: The cores that the processes are pinned to.
    """

    label: str
    server: Server
    upstream: Server | None
    cores: Cores

    @property
    def target(self) -> Target:
        """The endpoint that the client connects to."""
        arm = self.server.arm
        return Target(host=HOST, port=arm.port, model=arm.model, api_key=API_KEY)

    def chats(self, *, max_tokens: int, stream: bool) -> Iterator[bytes]:
        """Yield encoded requests endlessly, from a pool of prompts. No arm caches answers."""
        texts = prompts(_POOL, seed=0, series=0)
        target = self.target
        encoded = [encode_chat(target, t, max_tokens=max_tokens, stream=stream) for t in texts]
        return cycle(encoded)

    @contextmanager
    def awake(self) -> Iterator[Watched]:
        """Thaw the server, pin its threads, and let it catch up.

        Raises:
            MeasurementError: The server does not answer.
        """
        is_mock = self.upstream is None and not self.server.arm.engine_title
        with nullcontext() if is_mock else self.server.awake():
            path = self._bound()
            self.warm_up(20)
            yield path

    def _answers(self, requests: int, *, stream: bool) -> tuple[RequestRecord, ...]:
        chats = self.chats(max_tokens=2, stream=stream)
        loop = closed_loop(
            self.target,
            list(islice(chats, requests)),
            streams=_WARM_UP_STREAMS,
            deadline_s=READY_DEADLINE_S,
            reader=StreamReader if stream else WholeReader,
        )
        return uvloop.run(loop)

    def _bound(self) -> Watched:
        path = watched(self.server, self.upstream, self.cores)
        pin(_pids(path.gateway), self.cores.gateway)
        # Pinned last, because the engine's process is a descendant of the gateway's.
        pin(_pids(path.upstream), self.cores.client)
        return path

    def warm_up(self, requests: int) -> None:
        """Send some unstreamed and as many streamed requests.

        Raises:
            MeasurementError: A request fails.
        """
        records = self._answers(1, stream=False)
        records += self._answers(requests, stream=False)
        records += self._answers(requests, stream=True)
        if failed := [record.error for record in records if record.error]:
            raise MeasurementError(f"{self.label} at warm-up: {failed[0]}; {self.server.log}")


def _pids(processes: Sequence[psutil.Process]) -> list[int]:
    return [process.pid for process in processes]


def start(
    names: Sequence[str], setting: Setting, stack: ExitStack, cores: Cores
) -> Mapping[str, Contender]:
    """Start the mock and the named arms one after another, and freeze the arms.

    The mock stays awake, because it uses no CPU without requests.

    Raises:
        ServerError: A server does not start.
        MeasurementError: A server does not answer.
    """
    logs = setting.directory
    mock = stack.enter_context(running(built(UPSTREAM, setting), log_dir=logs))
    pin(mock.pids(), cores.client)
    contenders = {UPSTREAM: Contender(UPSTREAM, mock, None, cores)}
    for name in names:
        if name == UPSTREAM:
            continue
        arm = built(name, setting)
        server = stack.enter_context(running(arm, log_dir=logs))
        contender = Contender(name, server, None if arm.engine_title else mock, cores)
        contender.warm_up(WARM_UP_REQUESTS)
        sleep(SETTLE_S)
        server.freeze()
        contenders[name] = contender
    return {name: contenders[name] for name in names}
