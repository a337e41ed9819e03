"""The result of a run of `ringfence bench`, with the notes needed to read it; as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import orjson

from benchmarks.deployment.plan import BenchPlan
from benchmarks.deployment.step import KNEE_RULE, LoadStep, knee
from benchmarks.running.machine import MachineInfo, describe

MEANINGS = {
    "TTFT": "time to first token: from the start of a request to the first event with a token.",
    "ITL": "inter-token latency: the gap between two events that bear tokens, over all gaps.",
    "TPOT": "time per output token after the first: (E2E - TTFT) / (completion tokens - 1).",
    "E2E": "end to end: from the start of a request to the end of its answer.",
    "goodput": "requests a second that keep every limit given.",
    "rates": "over wall time, from a step's first start to its last end; served requests only.",
    "start": "in the closed loop when a request is sent, in the open loop when it is due.",
    "knee": KNEE_RULE,
}
BUSY_CLIENT_SHARE = 0.8
# Fewer requests run while the last answers of a step end; that part must be small.
LEAST_ANSWERS_LONG = 4
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run.

    Attributes:
        began: Start time with a time zone.
        command: The command that repeats the run, without the key.
        url: Base URL of the deployment.
        simulated: Whether the server says that the model's answers are simulated.
        client: The machine that sent the requests, which need not be the server's.
        ended: Reason why the run ended early; None if it is complete.
        steps: The steps in the order in which they ran.
    """

    began: datetime
    took_s: float
    command: tuple[str, ...]
    url: str
    model: str
    simulated: bool
    plan: BenchPlan
    client: MachineInfo
    ended: str | None
    steps: tuple[LoadStep, ...]

    @property
    def closed(self) -> tuple[LoadStep, ...]:
        """The closed-loop steps."""
        return tuple(step for step in self.steps if step.streams is not None)

    @property
    def open(self) -> tuple[LoadStep, ...]:
        """The open-loop steps."""
        return tuple(step for step in self.steps if step.streams is None)

    @property
    def knee(self) -> LoadStep | None:
        """The knee of the closed loop; None without closed-loop steps."""
        return knee(self.closed) if self.closed else None

    @property
    def stem(self) -> str:
        """The stem of the result's file names."""
        return f"{self.began:%Y-%m-%dT%H%M%S}-bench"


def this_machine() -> MachineInfo:
    """Describe this machine; the commit only if this code is in its own repository."""
    return describe(_REPOSITORY, versioned=(_REPOSITORY / ".git").exists())


def notes(result: Result) -> list[str]:
    """Return the notes that a reader of the figures needs, one sentence each."""
    told = [f"The run ended early: {result.ended}"] if result.ended else []
    if result.simulated:
        told.append("The model is simulated: the figures say nothing of a real one.")
    told += [_failures(step) for step in result.steps if step.failed]
    if wrong := sum(step.other_length for step in result.steps):
        told.append(
            f"{wrong} answers are not {result.plan.max_tokens} tokens long: the server does not "
            "heed ignore_eos or max_tokens, so requests differ in work."
        )
    if busy := [s.load for s in result.steps if s.client_cpu_share > BUSY_CLIENT_SHARE]:
        told.append(f"The load client itself was the limit at {', '.join(busy)}.")
    if short := [s.load for s in result.steps if _too_short(s, result.plan.duration_s)]:
        told.append(
            f"Throughput is too low at {', '.join(short)}: a step should send for "
            f"{LEAST_ANSWERS_LONG} times as long as an answer takes."
        )
    return told


def _too_short(step: LoadStep, duration_s: float) -> bool:
    return step.e2e_s is not None and step.e2e_s.p50 * LEAST_ANSWERS_LONG > duration_s


def _failures(step: LoadStep) -> str:
    return (
        f"At {step.load}, {step.failed} of {step.requests} requests failed, "
        f"the first with: {step.first_failure}"
    )


def write_json(result: Result, directory: Path) -> Path:
    """Write the result to `<date and time>-bench.json`.

    Raises:
        OSError: The file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.stem}.json"
    document = asdict(result) | {
        "knee": asdict(result.knee) if result.knee else None,
        "notes": notes(result),
        "meanings": MEANINGS,
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return path


def rows(steps: Sequence[LoadStep]) -> list[tuple[str, ...]]:
    """Format the figures of `steps` in the order of `COLUMNS`."""
    return [
        (
            step.load,
            str(step.requests),
            str(step.failed),
            f"{step.requests_per_s:.2f}",
            "-" if step.goodput_per_s is None else f"{step.goodput_per_s:.2f}",
            f"{step.output_tokens_per_s:.1f}",
            *(
                "-" if s is None else f"{s.p50 * 1000:.1f} / {s.p99 * 1000:.1f}"
                for s in (step.ttft_s, step.tpot_s, step.itl_s, step.e2e_s)
            ),
        )
        for step in steps
    ]


COLUMNS = (
    "load", "sent", "failed", "requests/s", "goodput/s", "tokens/s",
    "TTFT ms", "TPOT ms", "ITL ms", "E2E ms",
)  # fmt: skip
