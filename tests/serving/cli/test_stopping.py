"""The stop of `ringfence serve`: in order, reported to the operator, and never cut by a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from serving.accounting.attempt import Attempt
from serving.cli.stopping import listen_for_signals, say, stop
from serving.config import Settings
from serving.ray_cluster.cluster import ApplicationFailed, Cluster
from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.leftovers import Leftover
from serving.storage.migrate import upgrade
from serving.storage.valkey import PREFIX, Valkey
from serving.wiring.stopping import StopReport, WrittenLedgers
from tests.serving.accounting.test_ledger import attempt, ended, put
from tests.serving.conftest import SPECS

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WHOLE = StopReport(0, WrittenLedgers([], signed=True))


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@dataclass
class FakeCluster:
    """Gateways that report given results, after a signal if there is one."""

    reports: Sequence[StopReport | Exception] = (WHOLE,)
    gateways: bool = True
    signal: signal.Signals | None = None
    unreachable: bool = False
    hurried: bool = False
    phases: list[str] = field(default_factory=list)

    def has_gateways(self) -> bool:
        return self.gateways

    async def stop_gateways(
        self, drain_s: float, *, timeout_s: float, hurry: asyncio.Event
    ) -> Sequence[Any]:
        self.phases.append(f"gateways, {drain_s:g} s")
        assert timeout_s < 60
        if self.unreachable:
            raise ApplicationFailed("the gateways could not be asked to stop")
        if self.signal is not None:
            os.kill(os.getpid(), self.signal)
            async with asyncio.timeout(30):
                await hurry.wait()
            self.hurried = True
        return self.reports

    def stop(self, on_phase: Callable[[str], None]) -> None:
        on_phase("Stopping Ray")
        self.phases.append("cluster")


@dataclass(frozen=True, slots=True)
class Place:
    """A state directory with its database and its Valkey."""

    settings: Settings
    valkey: EmbeddedValkey

    def settle(self, *attempts: Attempt) -> None:
        """Leave rows in Valkey as gateways do."""

        async def add() -> None:
            opened = Valkey.open(self.valkey.url, timeout_s=5)
            await put(opened, PREFIX, *map(ended, attempts))
            await opened.close()

        asyncio.run(add())

    def rows(self) -> list[str]:
        with sqlite3.connect(self.settings.home / "ringfence.db") as opened:
            return [row[0] for row in opened.execute("SELECT id FROM usage_attempts ORDER BY id")]

    def stop(self, running: FakeCluster) -> bool:
        return stop(self.settings, cast("Cluster", running), self.valkey)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    valkey = EmbeddedValkey(tmp_path)
    valkey.ensure()
    told = {"models": SPECS, "home": tmp_path, "embedded_valkey": valkey.url}
    settings = Settings.model_validate(told | {"access": {"home": tmp_path}})
    upgrade(settings.access.database_url)
    yield Place(settings, valkey)
    valkey.stop()


def test_stop_moves_what_waits_in_valkey_and_stops_it_last(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    one, running = attempt(), FakeCluster()
    place.settle(one)
    assert place.stop(running)
    assert running.phases == ["gateways, 30 s", "cluster"]
    assert place.rows() == [one.id]
    assert place.valkey.pid is None
    assert "ringfence:" not in capsys.readouterr().err


def test_rows_that_the_database_does_not_take_are_kept_and_counted(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.settle(attempt(), attempt())
    database = place.settings.home / "ringfence.db"
    database.unlink()
    database.mkdir()
    assert not place.stop(FakeCluster())
    [line] = capsys.readouterr().err.splitlines()[-1:]
    [file] = (place.settings.home / "leftovers").iterdir()
    assert line == (
        "ringfence: 2 usage rows could not be written to the database; "
        f"they are in {file}, and the next start writes them"
    )


def test_what_each_gateway_could_not_write_is_told(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = "3 usage rows could not be written to the database"
    left = Leftover(3, "usage rows", None)
    unsigned = StopReport(2, WrittenLedgers([left], signed=False))
    running = FakeCluster((unsigned, unsigned, TimeoutError()))
    assert not place.stop(running)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "... 4 open requests were ended with an error",
        "... Stopping Ray",
        f"ringfence: {lost}, nor to any file: they are lost",
        f"ringfence: {lost}, nor to any file: they are lost",
        "ringfence: a gateway did not stop in order (TimeoutError)",
        "ringfence: the head of the egress ledger could not be signed; the next start signs it",
    ]


def test_gateways_that_cannot_be_reached_are_told(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    running = FakeCluster(unreachable=True)
    assert not place.stop(running)
    assert running.phases[-1] == "cluster"
    assert "the gateways could not be asked to stop" in capsys.readouterr().err


def test_server_without_gateways_stops_at_once(place: Place) -> None:
    place.settle(attempt())
    running = FakeCluster(gateways=False)
    assert place.stop(running)
    assert (running.phases, place.rows()) == (["cluster"], [])


def test_second_ctrl_c_ends_the_drain(place: Place) -> None:
    running = FakeCluster(signal=signal.SIGINT)
    assert place.stop(running)
    assert running.hurried


def test_no_signal_cuts_in_once_everything_is_being_stopped(place: Place) -> None:
    place.stop(FakeCluster())
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_IGN] * 3


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_interrupts_and_the_next_ones_are_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)  # Who runs the tests may ignore one of them.
    listen_for_signals()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)


def test_command_that_is_to_outlive_its_terminal_does() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As nohup does.
    listen_for_signals()
    os.kill(os.getpid(), signal.SIGHUP)


def test_terminal_that_is_gone_does_not_stop_the_stop() -> None:
    code = "from serving.cli.stopping import say; say('Stopping.')"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=writer, stdout=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 0


def test_paths_are_told_whole_whatever_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/" + "long/" * 60 + "[x]"
    say(path)
    assert capsys.readouterr().err == f"{path}\n"
