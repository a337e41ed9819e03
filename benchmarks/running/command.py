"""What the commands of both comparisons share: options, exit codes, progress and the log."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks.reporting.report import append_log
from benchmarks.running.measure import MeasurementError
from benchmarks.running.parts import parts_of
from benchmarks.running.pinning import TooFewCores
from benchmarks.running.processes import ServerError

REPOSITORY = Path(__file__).parents[2]
LOG = REPOSITORY / "benchmarks" / "LOG.md"
ORDER_SEED = 1


class NotSetUp(Exception):
    """Something that a comparison needs is not there; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A comparison that is over: its tables, and where its JSON is. `began` has a zone."""

    began: datetime
    tables: str
    path: Path


def add_options(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """Options that both commands have."""
    text = f"every second one reverses the order of the one before (default: {rounds})"
    parser.add_argument("--rounds", type=int, default=rounds, help=text)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--log", metavar="TITLE", help="append the tables to benchmarks/LOG.md")


def names_of(text: str, known: Collection[str]) -> list[str]:
    """The names in a comma-separated option; an arm may have parts in its name.

    Raises:
        argparse.ArgumentTypeError: If one is not among `known`, or has a part that is not known.
    """
    names = text.split(",")
    if unknown := [name for name in names if not _is_known(name, known)]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return names


def _is_known(name: str, known: Collection[str]) -> bool:
    try:
        parts_of(name)
    except KeyError:
        return False
    return name.partition("+")[0] in known


def carry_out(module: str, work: Callable[[], Finished], *, log: str | None) -> int:
    """Run a comparison, print its tables and log them; the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        finished = work()
    except NotSetUp as error:
        return _failed(module, str(error), code=2)
    except (ServerError, MeasurementError, TooFewCores) as error:
        return _failed(module, str(error), code=1)
    except KeyboardInterrupt:
        return _failed(module, "interrupted; every server was stopped", code=130)
    if log:
        append_log(LOG, date=finished.began, title=log, body=finished.tables)
    sys.stdout.write(f"{finished.tables}\n\n{finished.path}\n")
    return 0


def progress(line: str) -> None:
    """Say what was just done, with the time."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # A second one must not keep servers from ending.
    raise KeyboardInterrupt


def _failed(module: str, message: str, *, code: int) -> int:
    sys.stderr.write(f"{module}: {message}\n")
    return code
