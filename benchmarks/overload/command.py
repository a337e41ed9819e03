"""`python -m benchmarks.overload`: what overload costs in goodput and in other tenants' latency.

Measures two figures of a server that is started by its public command. Its simulated engine is
slow enough that neither the gateway nor the client is the bottleneck:

- goodput at twice the saturation rate, over the best goodput at any rate;
- TTFT of quiet tenants while another sends fifty times its share, over TTFT while it does not.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import perf_counter
from zlib import crc32

import uvloop

from benchmarks.client.load_client import Target, closed_loop, encode_chat
from benchmarks.client.prompts import texts
from benchmarks.deployment.step import Limits
from benchmarks.overload.client import Answer, Request, send
from benchmarks.overload.figures import (
    Around,
    FairnessPhase,
    GoodputStep,
    Times,
    fairness_phase,
    goodput_step,
)
from benchmarks.overload.plan import NOISY, QUICK, Due, OverloadPlan, arrivals
from benchmarks.overload.report import OverloadRun, closed_streams, markdown, write_json
from benchmarks.running.arms import HOST, Arm, isolated_ringfence
from benchmarks.running.command import REPOSITORY, Finished, carry_out, progress
from benchmarks.running.keys import new_key
from benchmarks.running.machine import conditions, describe, usage
from benchmarks.running.measure import MeasurementError
from benchmarks.running.processes import Server, running

MODEL = "simulated"
# A step hardly depends on the batch size, so that a full batch does not slow quiet tenants down.
SIMULATION: Mapping[str, float] = {
    "step_base_ms": 45.0,
    "step_per_sequence_ms": 0.05,
    "prefill_ms_per_token": 0.02,
}
PROMPT_WORDS = (15, 65)
RAMP_S = 4.0
_WARM_UP = 40


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study. Returns 1 if the server failed; missed goals are only reported."""
    options = _options(argv)
    return carry_out("benchmarks.overload", lambda: _finished(options), log=options.log)


def _finished(options: argparse.Namespace) -> Finished:
    plan = replace(
        QUICK if options.quick else OverloadPlan(),
        slots=options.slots,
        queued=2 * options.slots,
        limits=options.goodput,
        seed=options.seed,
    )
    run = study(plan)
    return Finished(began=run.began, tables=markdown(run), path=write_json(run, options.out))


def study(plan: OverloadPlan) -> OverloadRun:
    """Start the server, measure both figures, and stop it.

    Raises:
        ServerError: The server does not start or does not stop.
        MeasurementError: The server fails without overload.
    """
    began, began_s, machine = datetime.now(UTC), perf_counter(), describe(REPOSITORY)
    directory = Path(tempfile.mkdtemp(prefix="ringfence-overload-"))
    arm = served(plan, directory)
    progress(f"starting {arm.name}; logs: {directory}")
    keys = {tenant: new_key(arm, tenant=tenant, name="overload") for tenant in plan.tenants}
    with running(arm, log_dir=directory) as server:
        traffic = _Traffic(server, plan, keys)
        saturation_per_s = traffic.saturation()
        progress(f"saturation: {saturation_per_s:.2f} requests/s")
        # Goodput first: once other tenants have sent requests, slots are reserved for them.
        steps = list(_goodput(traffic, plan, saturation_per_s))
        phases = list(_fairness(traffic, plan, saturation_per_s))
    return OverloadRun(
        began=began,
        took_s=perf_counter() - began_s,
        command=("python", "-m", "benchmarks.overload", *sys.argv[1:]),
        machine=machine,
        plan=plan,
        simulation=SIMULATION,
        saturation_per_s=saturation_per_s,
        steps=steps,
        phases=phases,
    )


def served(plan: OverloadPlan, directory: Path) -> Arm:
    """Build Ringfence, started by its public command, with one simulated engine and defaults."""
    model = {
        "id": MODEL,
        "simulation": {**SIMULATION, "max_batch": plan.slots},
        "max_ongoing_requests": plan.slots,
        "max_queued_requests": plan.queued,
    }
    return isolated_ringfence(directory, {"models": [model]})


def _goodput(
    traffic: _Traffic, plan: OverloadPlan, saturation_per_s: float
) -> Iterator[GoodputStep]:
    for share in plan.shares:
        rate_per_s, lead_s = share * saturation_per_s, plan.lead_of(share)
        load = traffic.load({NOISY: rate_per_s}, lead_s=lead_s, name=f"goodput {share}")
        step = goodput_step(
            load.answers,
            share=share,
            rate_per_s=rate_per_s,
            lead_s=lead_s,
            window_s=plan.window_s,
            limits=plan.limits,
            around=load.around,
        )
        progress(
            f"{share:g} x saturation: goodput {step.goodput_per_s:.2f}/s, "
            f"{step.group.refusals.count} of {step.group.sent} refused"
        )
        yield step


def _fairness(
    traffic: _Traffic, plan: OverloadPlan, saturation_per_s: float
) -> Iterator[FairnessPhase]:
    for pair, phases in enumerate(plan.pairs()):
        for phase in phases:
            load = traffic.load(
                plan.rates(phase, saturation_per_s),
                lead_s=plan.overload_lead_s,
                name=f"fairness {pair}",
            )
            figures = fairness_phase(
                load.answers,
                pair=pair,
                phase=phase,
                lead_s=plan.overload_lead_s,
                window_s=plan.window_s,
                around=load.around,
            )
            progress(
                f"pair {pair + 1}, {phase}: quiet TTFT p95 {figures.p95_s or 0:.3f} s, "
                f"{figures.quiet.refusals.count} of {figures.quiet.sent} refused"
            )
            yield figures


@dataclass(frozen=True, slots=True)
class _Load:
    """All answers of a load, including those of the lead-in."""

    answers: tuple[Answer, ...]
    around: Around


class _Traffic:
    """The traffic to one server. No prompt is sent twice."""

    def __init__(self, server: Server, plan: OverloadPlan, keys: Mapping[str, str]) -> None:
        self._server = server
        self._plan = plan
        self._targets = {
            tenant: Target(host=HOST, port=server.arm.port, model=MODEL, api_key=key)
            for tenant, key in keys.items()
        }
        self._numbers = count()

    def saturation(self) -> float:
        """Return the requests per second of a closed loop that keeps all slots busy.

        Raises:
            MeasurementError: A request failed.
        """
        plan, target = self._plan, self._targets[NOISY]
        begin_s = perf_counter() + RAMP_S
        end_s = begin_s + plan.saturation_s
        requests = self._closed(target, until_s=end_s)
        loop = closed_loop(
            target, requests, streams=closed_streams(plan), deadline_s=plan.deadline_s
        )
        records = uvloop.run(loop)
        if failed := [record.error for record in records if record.error]:
            raise MeasurementError(f"in the closed loop: {failed[0]}; {self._server.log}")
        return sum(begin_s <= record.end_s < end_s for record in records) / plan.saturation_s

    def _closed(self, target: Target, *, until_s: float) -> Iterator[bytes]:
        # Random lengths need no cryptographic randomness.
        source = random.Random(self._plan.seed)  # noqa: S311
        for text in self._texts("closed"):
            if perf_counter() >= until_s:
                return
            yield encode_chat(target, text, max_tokens=source.randint(*self._plan.lengths))

    def load(self, rates: Mapping[str, float], *, lead_s: float, name: str) -> _Load:
        """Send the arrivals of some tenants, drawn from the plan's seed and `name`."""
        plan, seed = self._plan, f"{self._plan.seed} {name}"
        drawn = arrivals(
            rates, lead_s=lead_s, window_s=plan.window_s, lengths=plan.lengths, seed=seed
        )
        requests = self._encoded(drawn, seed)
        roots = [self._server.pids()]
        before, before_s = usage(roots), perf_counter()
        loop = send(
            self._targets[NOISY],
            requests,
            connections=plan.connections,
            deadline_s=plan.deadline_s,
        )
        answers = uvloop.run(loop)
        after, took_s = usage(roots), perf_counter() - before_s
        around = Around(
            client_cpu_share=(after.harness_s - before.harness_s) / took_s,
            held_s=Times.of([answer.held_s for answer in answers]),
            load_average=os.getloadavg()[0],
            conditions=conditions(before, after, own_s=after.trees_since(before)[0]),
        )
        return _Load(answers, around)

    def _encoded(self, drawn: Sequence[Due], seed: str) -> list[Request]:
        """Add prompts to the arrivals. They depend only on the seed and the tenant."""
        prompts = {tenant: self._texts(f"{seed} {tenant}") for tenant in self._targets}
        return [
            Request(
                due.at_s,
                due.tenant,
                encode_chat(
                    self._targets[due.tenant], next(prompts[due.tenant]), max_tokens=due.tokens
                ),
            )
            for due in drawn
        ]

    def _texts(self, seed: str) -> Iterator[str]:
        shortest, longest = PROMPT_WORDS
        number = crc32(seed.encode())
        return texts(self._numbers, seed=number, shortest_words=shortest, longest_words=longest)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan = OverloadPlan()
    parser.add_argument(
        "--quick", action="store_true", help="a short run of less than three minutes"
    )
    parser.add_argument(
        "--goodput",
        type=_limits,
        default=plan.limits,
        metavar="LIMITS",
        help=f"limits of a good answer, such as ttft:2s,e2e:9s (default: {plan.limits.shown()})",
    )
    parser.add_argument(
        "--slots",
        type=_slots,
        default=plan.slots,
        help=f"slots of the engine; twice as many requests may wait (default: {plan.slots})",
    )
    parser.add_argument("--seed", type=int, default=plan.seed, help="seed of all random draws")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--log", metavar="TITLE", help="append the tables to benchmarks/LOG.md")
    return parser.parse_args(argv)


def _limits(text: str) -> Limits:
    try:
        return Limits.parse(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _slots(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)
