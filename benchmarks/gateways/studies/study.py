"""A study: a named procedure that is run on each gateway in turn, and what one run of it gave.

Knows nothing of how often or in which order it is run.
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
    """What one run of a study on one gateway gave.

    Attributes:
        values: Figures by name; a study names its own.
        failure: Why they are of no use; None if every request was served in full.
        conditions: What else ran on the machine.
        details: More than the figures, for the JSON alone.
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
        """Of the outcome."""
        return self.outcome.failure

    @property
    def disturbance(self) -> str | None:
        """Why it may say more of the machine than of the gateway; None if it was quiet."""
        return self.outcome.conditions.disturbance


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in the tables.

    Attributes:
        value: Its name among an outcome's values.
        title: Head of the column, with the unit.
        digits: After the point.
        compared: Whether ratios of rounds are made of it.
    """

    value: str
    title: str
    digits: int = 1
    compared: bool = False


@dataclass(frozen=True, slots=True)
class Study:
    """A named procedure.

    Attributes:
        name: As in `--studies`.
        procedure: What is done and what the figures mean, for the reader of the tables.
        pace: Of every upstream while it runs.
        columns: Its figures.
        run: Does it once, on a gateway that is frozen before and after.
        most_rounds: Where a round takes minutes; None for as many as are asked for.
        derive: Figures that need the other gateways of the same round.
    """

    name: str
    procedure: str
    pace: Pace
    columns: Sequence[Column]
    run: Callable[[Contender], Outcome]
    most_rounds: int | None = None
    derive: Callable[[Sequence[Sample]], list[Sample]] = field(default=list)
