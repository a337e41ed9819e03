"""`python -m benchmarks.gateways`: compares gateways in front of a mock upstream.

A model's work would hide the cost of a gateway, so there is none: a mock or a simulated engine
produces tokens at a set pace. For each pace all gateways are started, and all but the measured one
are frozen; each study goes through them in alternating rounds (ABBA). One gateway is measured twice
per round; the difference is the noise. The procedure of each study is printed with its results.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks.gateways.arms import BUILDERS, UPSTREAM, Setting, foreign_command, foreign_versions
from benchmarks.gateways.contenders import Contender, start
from benchmarks.gateways.report import GatewayRun, StudyResult, markdown, write_json
from benchmarks.gateways.studies.chunks import CHUNK_CPU, GROWTH
from benchmarks.gateways.studies.memory import MEMORY
from benchmarks.gateways.studies.streams import STREAMS
from benchmarks.gateways.studies.study import Outcome, Sample, Study
from benchmarks.gateways.studies.unary import UNARY_LATENCY, UNARY_RPS
from benchmarks.gateways.summary import summarise_study
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
from benchmarks.running.machine import Conditions, describe
from benchmarks.running.measure import MeasurementError
from benchmarks.running.parts import EVERY_PART
from benchmarks.running.pinning import Cores, two_cores
from benchmarks.running.ports import free_port
from benchmarks.running.rounds import alternating

STUDIES = {s.name: s for s in (CHUNK_CPU, UNARY_RPS, UNARY_LATENCY, STREAMS, GROWTH, MEMORY)}
# Measured twice per round, if it takes part; else the upstream is.
TWICE = "ringfence"
REFERENCES = ("litellm", "ray-openai-app-simulated")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison. Returns 1 if a server failed or its answers were wrong."""
    options = _options(argv)
    return carry_out("benchmarks.gateways", lambda: _finished(options), log=options.log)


def _finished(options: argparse.Namespace) -> Finished:
    commands = {"litellm": options.litellm, "vllm-router": options.router}
    for name in commands.keys() & set(options.arms):
        if not commands[name].exists():
            raise NotSetUp(f"no {commands[name]}: run `make .bench/{name}`, or exclude it")
    studies = [STUDIES[name] for name in options.studies]
    run = compare(
        options.arms,
        studies,
        rounds=options.rounds,
        litellm=options.litellm,
        router=options.router,
    )
    return Finished(began=run.began, tables=markdown(run), path=write_json(run, options.out))


def compare(
    arms: Sequence[str], studies: Sequence[Study], *, rounds: int, litellm: Path, router: Path
) -> GatewayRun:
    """Start the gateways once per pace, run its studies in alternating rounds, and stop them.

    Args:
        arms: Names in `gateways.arms.BUILDERS`.
        studies: The studies to run.
        rounds: Number of rounds, unless a study has a lower limit.
        litellm: The `litellm` command.
        router: The `vllm-router` command.

    Raises:
        ServerError: A server does not start or does not stop.
        MeasurementError: A server does not answer, or no round of a study counts.
        TooFewCores: The machine has only one core.
    """
    began, began_s = datetime.now(UTC), perf_counter()
    machine, cores = describe(REPOSITORY), two_cores()
    found: dict[str, StudyResult] = {}
    for pace in dict.fromkeys(study.pace for study in studies):
        setting = Setting(
            pace=pace,
            upstream_port=free_port(),
            directory=Path(tempfile.mkdtemp(prefix="ringfence-benchmark-")),
            litellm=litellm,
            router=router,
        )
        paced = [study for study in studies if study.pace == pace]
        found |= _at_one_pace(arms, paced, setting, cores, rounds=rounds)
    return GatewayRun(
        began=began,
        took_s=perf_counter() - began_s,
        command=("python", "-m", "benchmarks.gateways", *sys.argv[1:]),
        machine=machine,
        foreign_versions=foreign_versions({"litellm": litellm, "vllm-router": router}),
        results=[found[study.name] for study in studies],
    )


def _at_one_pace(
    arms: Sequence[str], studies: Sequence[Study], setting: Setting, cores: Cores, *, rounds: int
) -> dict[str, StudyResult]:
    progress(f"starting {', '.join(arms)} at {setting.pace}; logs: {setting.directory}")
    with ExitStack() as stack:
        started = start(arms, setting, stack, cores)
        twice = started.get(TWICE) or started[UPSTREAM]
        contenders = [*started.values(), replace(twice, label=f"{twice.label} again")]
        labels = [contender.label for contender in contenders]
        found = {}
        for study in studies:
            samples = list(_samples(study, contenders, rounds=rounds))
            over = [name for name in (twice.label, *REFERENCES) if name in labels]
            rows = summarise_study(study, samples, labels=labels, references=over)
            found[study.name] = StudyResult(study, samples, rows)
    return found


def _samples(study: Study, contenders: Sequence[Contender], *, rounds: int) -> Iterator[Sample]:
    rounds = min(rounds, study.most_rounds or rounds)
    for number, order in alternating(contenders, rounds=rounds, seed=ORDER_SEED):
        for contender in order:
            outcome = _attempt(study, contender)
            _announce(study, number, contender, outcome)
            yield Sample(study.name, number, contender.label, outcome)


def _attempt(study: Study, contender: Contender) -> Outcome:
    """Run a study once. A gateway that does not answer fails, and the others continue."""
    try:
        return study.run(contender)
    except (MeasurementError, OSError) as error:
        unknown = Conditions(steal_share=0.0, foreign_share=0.0)
        return Outcome({}, f"{type(error).__name__}: {error}", unknown)


def _announce(study: Study, number: int, contender: Contender, outcome: Outcome) -> None:
    figures = ", ".join(
        f"{column.title} {outcome.values[column.value]:.{column.digits}f}"
        for column in study.columns
        if column.value in outcome.values
    )
    note = outcome.failure or outcome.conditions.disturbance
    progress(
        f"{study.name}, round {number + 1}, {contender.label}: {figures}"
        f"{f' ({note})' if note else ''}"
    )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateways", description=__doc__)
    arms, studies = [*BUILDERS, EVERY_PART], list(STUDIES)
    for option, known, all_of in (("--arms", BUILDERS, arms), ("--studies", STUDIES, studies)):
        parser.add_argument(
            option,
            type=partial(names_of, known=known),
            default=all_of,
            help=f"comma-separated list from: {', '.join(all_of)} (default: all)",
        )
    parser.add_argument(
        "--litellm",
        type=Path,
        default=foreign_command("BENCH_LITELLM", ".bench/litellm/bin/litellm"),
        help="LiteLLM's command (default: BENCH_LITELLM, else what `make .bench/litellm` makes)",
    )
    parser.add_argument(
        "--router",
        type=Path,
        default=foreign_command("BENCH_ROUTER", ".bench/vllm-router/bin/vllm-router"),
        help="vLLM's router (default: BENCH_ROUTER, else what `make .bench/vllm-router` makes)",
    )
    add_options(parser, rounds=2)
    options = parser.parse_args(argv)
    if UPSTREAM not in options.arms:
        parser.error(f"--arms: {UPSTREAM} must be included: the others are measured against it")
    return options
