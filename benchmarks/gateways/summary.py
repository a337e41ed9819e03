"""From samples of a study to its tables' figures: medians, and ratios of rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gateways.studies.study import Sample, Study
from benchmarks.reporting.statistics import Ratio, percentile, ratio, round_ratios
from benchmarks.reporting.summary import counted_rounds

_BOOTSTRAP_SEED = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One gateway in one study.

    Attributes:
        medians: Over the rounds that count, by the value's name.
        ratios: By the value's name and by what it is divided by.
        rounds: How many count.
        disturbed: Whether rounds on a disturbed machine had to be used.
        failure: Why there are no figures; None if there are.
    """

    label: str
    medians: Mapping[str, float]
    ratios: Mapping[str, Mapping[str, Ratio]]
    rounds: int
    disturbed: bool
    failure: str | None


def summarise_study(
    study: Study, samples: Sequence[Sample], *, labels: Sequence[str], references: Sequence[str]
) -> list[Row]:
    """Rows in the order of `labels`.

    A gateway that fails in every round gets no figures and does not cost the others theirs.

    Args:
        study: Which figures there are.
        samples: Its own, of all rounds.
        labels: Of all gateways.
        references: Those of them that the others are divided by.
    """
    broken = _broken(samples, labels)
    served = study.derive([s for s in samples if s.label not in broken])
    rounds, disturbed = counted_rounds(served) if served else (set(), False)
    values = _by_label(s for s in served if s.round_number in rounds)
    rows = []
    for label in labels:
        own = values.get(label, {})
        rows.append(
            Row(
                label=label,
                medians={name: percentile(list(v.values()), 50) for name, v in own.items()},
                ratios={
                    column.value: _ratios(column.value, own, values, references)
                    for column in study.columns
                    if column.compared
                },
                rounds=len(rounds) if own else 0,
                disturbed=disturbed,
                failure=broken.get(label),
            )
        )
    return rows


def _broken(samples: Sequence[Sample], labels: Sequence[str]) -> dict[str, str]:
    """Gateways that failed in every round, and why at last."""
    broken = {}
    for label in labels:
        failures = [s.failure for s in samples if s.label == label]
        if all(failures) and failures[-1] is not None:
            broken[label] = failures[-1]
    return broken


_Values = dict[str, dict[int, float]]


def _by_label(samples: Iterable[Sample]) -> dict[str, _Values]:
    """Figures by label, name and round."""
    values: dict[str, _Values] = {}
    for sample in samples:
        own = values.setdefault(sample.label, {})
        for name, value in sample.outcome.values.items():
            own.setdefault(name, {})[sample.round_number] = value
    return values


def _ratios(
    name: str, own: _Values, values: Mapping[str, _Values], references: Sequence[str]
) -> dict[str, Ratio]:
    found = {}
    above = own.get(name, {})
    for reference in references:
        below = values.get(reference, {}).get(name, {})
        if above.keys() & below.keys() and min(*above.values(), *below.values()) > 0:
            found[reference] = ratio(round_ratios(above, below), seed=_BOOTSTRAP_SEED)
    return found
