"""`python -m benchmarks.compare`: compares servers in one run, in alternating rounds.

All servers stay up during the run, and all but the measured one are frozen. Each round goes through
the stream counts and, at each, through the servers. Every second round reverses the order of the
one before (ABBA); the orders are drawn from a seed. The baseline is measured twice per round; the
difference between the two is the noise of the comparison.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from time import perf_counter

from benchmarks.reporting.report import ComparisonRun, markdown, write_json
from benchmarks.reporting.summary import summarise_run
from benchmarks.running.arms import BUILDERS, Arm, built, default_model_dir
from benchmarks.running.command import (
    ORDER_SEED,
    REPOSITORY,
    Finished,
    NotSetUp,
    add_options,
    carry_out,
    names_of,
    progress,
)
from benchmarks.running.machine import describe
from benchmarks.running.measure import (
    Entry,
    Measurement,
    footprints,
    measure,
    warm_up,
)
from benchmarks.running.parts import EVERY_PART, RINGFENCE
from benchmarks.running.processes import Server, running
from benchmarks.running.rounds import alternating

BASELINE = "bare-vllm"
DEFAULT_ARMS = (BASELINE, "ray-openai-app", RINGFENCE, EVERY_PART)
"""Together these need 17 GiB of memory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison. Returns 1 if a server failed or its answers were wrong."""
    options = _options(argv)
    return carry_out("benchmarks.compare", lambda: _finished(options), log=options.log)


def _finished(options: argparse.Namespace) -> Finished:
    arms = [built(name, options.model_dir) for name in options.arms]
    weights = options.model_dir / "config.json"
    if not (weights.exists() or any(arm.writes_model_dir for arm in arms)):
        raise NotSetUp(f"no {weights}: run `make serve` once, or give --model-dir")
    run = compare(arms, baseline=BASELINE, streams=options.streams, rounds=options.rounds)
    return Finished(began=run.began, tables=markdown(run), path=write_json(run, options.out))


def compare(
    arms: Sequence[Arm], *, baseline: str, streams: Sequence[int], rounds: int
) -> ComparisonRun:
    """Start `arms`, measure them in alternating rounds, and stop them.

    Args:
        arms: The servers to compare.
        baseline: Name of the arm that is measured twice and that the others are divided by.
        streams: Numbers of concurrent streams.
        rounds: Number of measurements of each arm at each stream count.

    Raises:
        ServerError: A server does not start or does not stop.
        MeasurementError: A server's answers are incomplete.
    """
    began, began_s = datetime.now(UTC), perf_counter()
    machine = describe(REPOSITORY)
    with ExitStack() as stack:
        servers, ready_s = _start(arms, stack, streams=max(streams))
        entries = _entries(servers, baseline)
        measurements = list(_measurements(entries, streams=streams, rounds=rounds))
        feet = footprints(servers, ready_s)
    return ComparisonRun(
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
        default=list(DEFAULT_ARMS),
        help=f"comma-separated list from: {', '.join(BUILDERS)}; with parts: {EVERY_PART} "
        f"(default: {','.join(DEFAULT_ARMS)})",
    )
    parser.add_argument(
        "--streams",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1, 4, 8, 16],
        help="comma-separated counts of concurrent streams (default: 1,4,8,16)",
    )
    parser.add_argument(
        "--model-dir",
        type=Path,
        default=default_model_dir(),
        help="weights of the arms that are not Ringfence (default: %(default)s)",
    )
    add_options(parser, rounds=4)
    return parser.parse_args(argv)


def _arms(text: str) -> list[str]:
    names = names_of(text, BUILDERS)
    if BASELINE not in names:
        raise argparse.ArgumentTypeError(
            f"{BASELINE} must be included: the others are compared with it"
        )
    return names


def _start(
    arms: Sequence[Arm], stack: ExitStack, *, streams: int
) -> tuple[list[Server], list[float]]:
    """Start the servers one after another; the one that prepares the weights is first."""
    logs = Path(tempfile.mkdtemp(prefix="ringfence-benchmark-"))
    servers, ready_s = [], []
    for arm in sorted(arms, key=lambda arm: not arm.writes_model_dir):
        started_s = perf_counter()
        server = stack.enter_context(running(arm, log_dir=logs))
        warm_up(server, streams=streams)
        ready_s.append(perf_counter() - started_s)
        server.freeze()
        servers.append(server)
        progress(f"{arm.name} answered after {ready_s[-1]:.0f} s; log: {server.log}")
    return servers, ready_s


def _entries(servers: Sequence[Server], baseline: str) -> list[Entry]:
    """Return one entry per server, and the baseline first and twice."""
    base = next(server for server in servers if server.arm.name == baseline)
    return [
        Entry(label=baseline, server=base, prompt_set=0),
        Entry(label=f"{baseline} again", server=base, prompt_set=1),
        *(Entry(label=s.arm.name, server=s, prompt_set=0) for s in servers if s is not base),
    ]


def _measurements(
    entries: Sequence[Entry], *, streams: Sequence[int], rounds: int
) -> Iterator[Measurement]:
    for number, order in alternating(entries, rounds=rounds, seed=ORDER_SEED):
        for count, entry in product(streams, order):
            yield _announced(measure(entry, streams=count, round_number=number))


def _announced(measurement: Measurement) -> Measurement:
    note = measurement.failure or measurement.disturbance
    progress(
        f"round {measurement.round_number + 1}, {measurement.streams} streams, "
        f"{measurement.label}: {measurement.tokens_per_s:.1f} tokens/s in "
        f"{measurement.wall_s:.1f} s{f' ({note})' if note else ''}"
    )
    return measurement
