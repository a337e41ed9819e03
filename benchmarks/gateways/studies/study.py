"""A study: a named procedure that runs on each gateway in turn, and the result of a run.

Does not know the number or the order of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gateways.contenders import Contender
from benchmarks.running.machine import Conditions
from benchmarks.servers.steps import Pace

REQUEST_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run of a study on one gateway.

    Attributes:
        values: Figures by name; each study has its own names.
        failure: Reason why the figures are useless; None if every request was served.
        conditions: Other load on the machine.
        details: Further data for the JSON report.
    """

    values: Mapping[str, float]
    failure: str | None
    conditions: Conditions
    details: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """An outcome with its place in the run."""

    study: str
    round_number: int
    label: str
    outcome: Outcome

    @property
    def failure(self) -> str | None:
        """The outcome's failure."""
        return self.outcome.failure

    @property
    def disturbance(self) -> str | None:
        """Why the machine may have distorted the figures; None if it was quiet."""
        return self.outcome.conditions.disturbance


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in the tables.

    Attributes:
        value: Name of the figure in an outcome's values.
        title: Column heading, with the unit.
        digits: Number of decimals.
        compared: Whether per-round ratios are computed.
    """

    value: str
    title: str
    digits: int = 1
    compared: bool = False


@dataclass(frozen=True, slots=True)
class Study:
    """A named procedure.

    Attributes:
        name: Name in `--studies`.
        procedure: Description of the procedure and its figures, printed with the tables.
        pace: Pace of every upstream during the study.
        columns: Figures of the study.
        run: Runs the study once, on a gateway that is frozen before and after.
        most_rounds: Maximum rounds of a long study; None for no limit.
        derive: Adds figures that depend on the other gateways of the same round.
    """

    name: str
    procedure: str
    pace: Pace
    columns: Sequence[Column]
    run: Callable[[Contender], Outcome]
    most_rounds: int | None = None
    derive: Callable[[Sequence[Sample]], list[Sample]] = field(default=list)
