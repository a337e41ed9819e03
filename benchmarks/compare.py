"""`python -m benchmarks.compare`: the servers side by side in one run, in alternating rounds.

All servers stay up for the whole run; all but the measured one are frozen. Each round goes
through the stream counts and, at each, through the entries: every second round in the reverse of
the order before it (ABBA), the orders themselves drawn from a seed. The baseline is measured
twice a round; how far the second is from the first is the noise of the comparison.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import NoReturn

from benchmarks.arms import BUILDERS, Arm, default_model_dir
from benchmarks.machine import describe
from benchmarks.measure import (
    Entry,
    Measurement,
    MeasurementError,
    footprints,
    measure,
    warm_up,
)
from benchmarks.processes import Server, ServerError, running
from benchmarks.report import Run, append_log, markdown, write_json
from benchmarks.summary import summarise_run

REPOSITORY = Path(__file__).parents[1]
LOG = REPOSITORY / "benchmarks" / "LOG.md"
BASELINE = "bare-vllm"
_ORDER_SEED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 if a server or its answers were not as they must be."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    arms = [BUILDERS[name](options.model_dir) for name in options.arms]
    weights = options.model_dir / "config.json"
    if not (weights.exists() or any(arm.writes_model_dir for arm in arms)):
        return _failed(f"no {weights}: run `make serve` once, or give --model-dir", code=2)
    try:
        run = compare(arms, baseline=BASELINE, streams=options.streams, rounds=options.rounds)
    except (ServerError, MeasurementError) as error:
        return _failed(str(error), code=1)
    except KeyboardInterrupt:
        return _failed("interrupted; every server was stopped", code=130)
    path = write_json(run, options.out)
    tables = markdown(run)
    if options.log:
        append_log(LOG, date=run.began, title=options.log, body=tables)
    sys.stdout.write(f"{tables}\n\n{path}\n")
    return 0


def compare(arms: Sequence[Arm], *, baseline: str, streams: Sequence[int], rounds: int) -> Run:
    """Start `arms`, measure them in alternating rounds and stop them.

    Args:
        arms: Servers to compare.
        baseline: Name of the arm that is measured twice and that the others are divided by.
        streams: Counts of concurrent streams.
        rounds: How often each arm is measured at each count.

    Raises:
        ServerError: If a server does not start or does not go away.
        MeasurementError: If a server does not answer in full.
    """
    began, began_s = datetime.now(UTC), perf_counter()
    machine = describe(REPOSITORY)
    with ExitStack() as stack:
        servers, ready_s = _start(arms, stack, streams=max(streams))
        entries = _entries(servers, baseline)
        measurements = list(_measurements(entries, streams=streams, rounds=rounds))
        feet = footprints(servers, ready_s)
    return Run(
        began=began,
        took_s=perf_counter() - began_s,
        command=("python", "-m", "benchmarks.compare", *sys.argv[1:]),
        baseline=baseline,
        machine=machine,
        footprints=feet,
        measurements=measurements,
        lines=summarise_run(measurements, labels=[entry.label for entry in entries]),
    )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument(
        "--arms",
        type=_arms,
        default=list(BUILDERS),
        help=f"comma-separated, of: {', '.join(BUILDERS)} (default: all)",
    )
    parser.add_argument(
        "--streams",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1, 4, 8, 16],
        help="comma-separated counts of concurrent streams (default: 1,4,8,16)",
    )
    parser.add_argument("--rounds", type=int, default=4, help="even, for ABBA (default: 4)")
    parser.add_argument(
        "--model-dir",
        type=Path,
        default=default_model_dir(),
        help="weights of the arms that are not Ringfence (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--log", metavar="TITLE", help="append the tables to benchmarks/LOG.md")
    return parser.parse_args(argv)


def _arms(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - BUILDERS.keys():
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    if BASELINE not in names:
        raise argparse.ArgumentTypeError(f"{BASELINE} is what the others are compared with")
    return names


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _failed(message: str, *, code: int) -> int:
    sys.stderr.write(f"benchmarks.compare: {message}\n")
    return code


def _start(
    arms: Sequence[Arm], stack: ExitStack, *, streams: int
) -> tuple[list[Server], list[float]]:
    """Start the servers one after another, the one that makes the weights first."""
    logs = Path(tempfile.mkdtemp(prefix="ringfence-benchmark-"))
    servers, ready_s = [], []
    for arm in sorted(arms, key=lambda arm: not arm.writes_model_dir):
        started_s = perf_counter()
        server = stack.enter_context(running(arm, log_dir=logs))
        warm_up(server, streams=streams)
        ready_s.append(perf_counter() - started_s)
        server.freeze()
        servers.append(server)
        _progress(f"{arm.name} answered after {ready_s[-1]:.0f} s; log: {server.log}")
    return servers, ready_s


def _entries(servers: Sequence[Server], baseline: str) -> list[Entry]:
    """One entry for each server, the baseline first and twice."""
    base = next(server for server in servers if server.arm.name == baseline)
    return [
        Entry(label=baseline, server=base, prompt_set=0),
        Entry(label=f"{baseline} again", server=base, prompt_set=1),
        *(Entry(label=s.arm.name, server=s, prompt_set=0) for s in servers if s is not base),
    ]


def _measurements(
    entries: Sequence[Entry], *, streams: Sequence[int], rounds: int
) -> Iterator[Measurement]:
    # An order, not a secret.
    source = random.Random(_ORDER_SEED)  # noqa: S311
    order = list(entries)
    for number in range(rounds):
        if number % 2:
            order.reverse()
        else:
            source.shuffle(order)
        for count, entry in product(streams, order):
            yield _announced(measure(entry, streams=count, round_number=number))


def _announced(measurement: Measurement) -> Measurement:
    note = measurement.failure or measurement.disturbance
    _progress(
        f"round {measurement.round_number + 1}, {measurement.streams} streams, "
        f"{measurement.label}: {measurement.tokens_per_s:.1f} tokens/s in "
        f"{measurement.wall_s:.1f} s{f' ({note})' if note else ''}"
    )
    return measurement


def _progress(line: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")


if __name__ == "__main__":
    sys.exit(main())
