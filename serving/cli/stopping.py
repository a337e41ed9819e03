"""The stop of `ringfence serve`: gateways, Ray, what waits in Valkey; and what was not written."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from types import FrameType
from typing import Any, NoReturn

import typer

from serving.accounting.ledger import Ledger, waiting_rows
from serving.config import Settings
from serving.ray_cluster.cluster import ApplicationFailed, Cluster
from serving.storage.database import Database
from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.errors import DatabaseUnavailable, ValkeyError
from serving.storage.leftovers import Leftover
from serving.storage.valkey import PREFIX, Valkey
from serving.wiring.admission import usage_leftovers
from serving.wiring.stopping import CLOSE_S, StopReport

ANSWER_S = 5.0
"""How long a gateway's report may take, beyond its stop."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def listen_for_signals() -> None:
    """Have Ctrl-C, SIGTERM or the end of the terminal raise KeyboardInterrupt, once."""
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # As of nohup.
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def say(line: str) -> None:
    """Tell the operator, whose terminal may be gone."""
    with suppress(OSError):
        typer.echo(line, err=True)


def stop(settings: Settings, running: Cluster, valkey: EmbeddedValkey) -> bool:
    """Stop everything, gateways first; whether all that was accepted is written."""
    _ignore_signals()
    served = running.has_gateways()
    problems = list(_gateways_stopped(settings, running)) if served else []
    running.stop(lambda phase: say(f"... {phase}"))
    if served:
        problems += _rows_moved(settings, valkey)
    valkey.stop()
    for problem in problems:
        say(f"ringfence: {problem}")
    return not problems


def _gateways_stopped(settings: Settings, running: Cluster) -> Iterator[str]:
    """Have the gateways stop; what of that went wrong."""
    try:
        reports = asyncio.run(_reports(running, settings.server.drain_s))
    except ApplicationFailed as error:
        yield f"{error}; requests may have been cut, and what they used not written"
        return
    ended, signed = 0, True
    for report in reports:
        if not isinstance(report, StopReport):
            yield f"a gateway did not stop in order ({type(report).__name__})"
            continue
        ended += report.ended
        yield from map(str, report.written.left)
        signed &= report.written.signed
    if not signed:
        yield "the head of the egress ledger could not be signed; the next start signs it"
    if ended:
        say(f"... {ended} open requests were ended with an error")


async def _reports(running: Cluster, drain_s: float) -> Sequence[Any]:
    """Collect the gateways' reports of their stop. A second Ctrl-C ends their time to drain."""
    say(f"... Waiting up to {drain_s:g} s for open requests; Ctrl-C ends them now")
    loop, hurry = asyncio.get_running_loop(), asyncio.Event()
    signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(hurry.set))
    try:
        return await running.stop_gateways(drain_s, timeout_s=CLOSE_S + ANSWER_S, hurry=hurry)
    finally:
        _ignore_signals()


def _rows_moved(settings: Settings, valkey: EmbeddedValkey) -> Iterator[str]:
    """Move the rows that wait in Valkey into SQL; what of that went wrong."""
    try:
        if settings.valkey_url == valkey.url:
            valkey.ensure()
        yield from map(str, asyncio.run(_emptied(settings)))
    except ValkeyError as error:
        yield f"usage rows may wait in Valkey, for the next start to write: {error}"


async def _emptied(settings: Settings) -> list[Leftover]:
    valkey, leftovers = Valkey.open(settings.valkey_url), usage_leftovers(settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(valkey.close)
        try:
            database = Database.open(settings.access.database_url)
        except DatabaseUnavailable:  # A full disk may not even let it be opened.
            return leftovers.keep(await waiting_rows(valkey, PREFIX))
        stack.push_async_callback(database.close)
        return await Ledger(database, valkey, prefix=PREFIX, leftovers=leftovers).empty()
