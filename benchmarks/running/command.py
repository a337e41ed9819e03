"""Common parts of the commands: options, exit codes, progress and the log."""

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
    """A prerequisite of a comparison is missing; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A completed comparison: its tables and the path of its JSON. `began` has a time zone."""

    began: datetime
    tables: str
    path: Path


def add_options(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """Add the options that the commands share."""
    text = f"rounds; every second one reverses the order of the one before (default: {rounds})"
    parser.add_argument("--rounds", type=int, default=rounds, help=text)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--log", metavar="TITLE", help="append the tables to benchmarks/LOG.md")


def names_of(text: str, known: Collection[str]) -> list[str]:
    """Parse a comma-separated option; the name of an arm may contain parts.

    Raises:
        argparse.ArgumentTypeError: A name or a part is unknown.
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
    """Run a comparison, print and log its tables; returns the exit code."""
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
    """Print a line of progress with the time."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_IGN
        )  # A second signal must not keep servers from being stopped.
    raise KeyboardInterrupt


def _failed(module: str, message: str, *, code: int) -> int:
    sys.stderr.write(f"{module}: {message}\n")
    return code
